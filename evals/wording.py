"""Numbers in sentences."""


def counted(number: int, noun: str) -> str:
    """Such as `1 job` and `2 jobs`."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
