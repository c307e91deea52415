"""Numbers in sentences."""


def three_digits(value: float) -> str:
    """Three significant digits, or all of a larger number's: `2.48`, `12.3`, `1,085`."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def counted(number: int, noun: str, plural: str | None = None) -> str:
    """Such as `1 job` and `2 jobs`; nouns that do not take an s have their `plural`."""
    return f"{number} {noun if number == 1 else plural or f'{noun}s'}"
