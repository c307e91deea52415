"""Python source without comments, docstrings and blank lines, otherwise as it was written."""

import ast
import io
import token
import tokenize
import warnings

_HAS_DOCSTRING = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


def strip_source(source: str) -> str:
    """Remove comments, docstrings and blank lines from a module; strings and layout stay.

    A docstring that is all there is in a body becomes ``pass``. Raises ``SyntaxError`` (or one of
    its relatives, ``tokenize.TokenError`` and ``ValueError``) for what this Python cannot parse.
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
    for statement, alone in sorted(docstrings, key=lambda pair: pair[0].lineno, reverse=True):
        start, end = statement.lineno - 1, (statement.end_lineno or statement.lineno) - 1
        before = lines[start][: statement.col_offset]
        after = lines[end][statement.end_col_offset :]
        # Code on the same line (`def f(): "doc"`, `"doc"; x = 1`) needs a statement there.
        shared = bool(before.strip()) or after.lstrip().startswith(b";")
        replacement = b"pass" if alone or shared else b""
        lines[start : end + 1] = [before + replacement + after]
    return b"\n".join(lines).decode()


def _without_comments(source: str) -> str:
    lines = source.split("\n")
    inside_string: set[int] = set()  # rows that begin inside a string: nothing there may change
    ends_in_string: set[int] = set()
    open_rows: list[int] = []
    for kind, _, (row, column), (end_row, _), _ in tokenize.generate_tokens(
        io.StringIO(source).readline
    ):
        if kind == token.COMMENT:
            lines[row - 1] = lines[row - 1][:column]
            continue
        first = row
        if kind == getattr(token, "FSTRING_START", None):  # Python 3.12 splits f-strings up
            open_rows.append(row)
        elif kind == getattr(token, "FSTRING_END", None):
            first = open_rows.pop()
        elif kind != token.STRING:
            continue
        inside_string.update(range(first + 1, end_row + 1))
        ends_in_string.update(range(first, end_row))
    kept = []
    for row, line in enumerate(lines, start=1):
        text = line if row in ends_in_string else line.rstrip()
        if text or row in inside_string or row in ends_in_string:
            kept.append(text)
    return "\n".join(kept) + "\n"
