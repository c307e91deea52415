"""Python source without comments, docstrings and blank lines, otherwise as it was written."""

import ast
import io
import token
import tokenize
import warnings

_HAS_DOCSTRING = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


def strip_source(source: str) -> str:
    """Remove comments, docstrings and blank lines from a module; strings and layout stay.

    A docstring that is the only statement of a body becomes ``pass``. Raises ``SyntaxError``,
    ``tokenize.TokenError`` or ``ValueError`` for source that this Python cannot parse.
    """
    source = source.replace("\r\n", "\n").replace("\f", "")
    return _without_comments(_without_docstrings(source))


def _without_docstrings(source: str) -> str:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # invalid escapes are not ours to report
        tree = ast.parse(source)
    lines = [line.encode() for line in source.split("\n")]  # ast counts columns in bytes
    docstrings = [
        (node.body[0], len(node.body) == 1)
        for node in ast.walk(tree)
        if isinstance(node, _HAS_DOCSTRING) and ast.get_docstring(node, clean=False) is not None
    ]
    # From the last to the first, so that the line numbers of those before stay valid.
    docstrings.sort(key=lambda pair: pair[0].lineno, reverse=True)
    for statement, is_only_statement in docstrings:
        start, end = statement.lineno - 1, (statement.end_lineno or statement.lineno) - 1
        before = lines[start][: statement.col_offset]
        after = lines[end][statement.end_col_offset :]
        # Other code on the line (`def f(): "doc"`, `"doc"; x = 1`) needs a statement in its place.
        shares_line = bool(before.strip()) or after.lstrip().startswith(b";")
        replacement = b"pass" if is_only_statement or shares_line else b""
        lines[start : end + 1] = [before + replacement + after]
    return b"\n".join(lines).decode()


def _without_comments(source: str) -> str:
    lines = source.split("\n")
    inside_string: set[int] = set()  # rows that begin inside a string, which must not change
    ends_in_string: set[int] = set()
    fstring_rows: list[int] = []  # where the f-strings start that are not closed yet
    for kind, _, (row, column), (end_row, _), _ in tokenize.generate_tokens(
        io.StringIO(source).readline
    ):
        if kind == token.COMMENT:
            lines[row - 1] = lines[row - 1][:column]
            continue
        first_row = row
        if kind == getattr(token, "FSTRING_START", None):  # several tokens since Python 3.12
            fstring_rows.append(row)
        elif kind == getattr(token, "FSTRING_END", None):
            first_row = fstring_rows.pop()
        elif kind != token.STRING:
            continue
        inside_string.update(range(first_row + 1, end_row + 1))
        ends_in_string.update(range(first_row, end_row))
    kept_lines = []
    for row, line in enumerate(lines, start=1):
        text = line if row in ends_in_string else line.rstrip()
        if text or row in inside_string or row in ends_in_string:
            kept_lines.append(text)
    return "\n".join(kept_lines) + "\n"
