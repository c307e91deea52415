"""Stripping takes comments, docstrings and blank lines, and leaves the program as it was."""

import ast
import io
import sysconfig
import tokenize
import warnings
from pathlib import Path

import pytest

from sparse_lens.training.stripping import strip_source

SAMPLE = (
    "argparse.py",
    "asyncio/tasks.py",
    "collections/__init__.py",
    "dataclasses.py",
    "doctest.py",
    "enum.py",
    "functools.py",
    "http/client.py",
    "inspect.py",
    "json/decoder.py",
    "logging/__init__.py",
    "pickle.py",
    "string.py",
    "subprocess.py",
    "textwrap.py",
    "tokenize.py",
    "typing.py",
    "unittest/mock.py",
)


class _WithoutDocstrings(ast.NodeTransformer):
    def generic_visit(self, node: ast.AST) -> ast.AST:
        super().generic_visit(node)
        documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
        if isinstance(node, documented) and ast.get_docstring(node, clean=False) is not None:
            node.body = node.body[1:] or [ast.Pass()]
        return node


def _program(source: str) -> str:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return ast.dump(_WithoutDocstrings().visit(ast.parse(source)))


@pytest.mark.parametrize("name", SAMPLE)
def test_the_program_stays_the_same(name: str) -> None:
    path = Path(sysconfig.get_paths()["stdlib"]) / name
    if not path.exists():
        pytest.skip(f"this Python has no {name}")
    with tokenize.open(path) as file:
        source = file.read()
    stripped = strip_source(source)
    assert _program(stripped) == _program(source)
    assert len(stripped) < len(source)
    assert strip_source(stripped) == stripped
    kinds = [token.type for token in tokenize.generate_tokens(io.StringIO(stripped).readline)]
    assert tokenize.COMMENT not in kinds
    assert tokenize.NL not in [
        token.type
        for token in tokenize.generate_tokens(io.StringIO(stripped).readline)
        if not token.line.strip()
    ]


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("'''Doc.'''\nx = 'a'  # b\n", "x = 'a'\n"),
        ("'''Doc.'''\n", "pass\n"),
        ("def f():\n    'Doc.'\n\n\n    # c\n    return \"#\"\n", 'def f():\n    return "#"\n'),
        ("def f():\n    '''Doc\n    more.'''\ny = 1\n", "def f():\n    pass\ny = 1\n"),
        ("def f(): 'Doc.'\n", "def f(): pass\n"),
        ("def f(): 'Doc.'; return 1\n", "def f(): pass; return 1\n"),
        ("class A:\n    'Doc.'  # c\n    x = 1\n", "class A:\n    x = 1\n"),
        ("x = '''a\n\n  # b  \n'''   \n\ny = 2\n", "x = '''a\n\n  # b  \n'''\ny = 2\n"),
        ("x = f'''a\n\n{y}  # b  \n'''\n", "x = f'''a\n\n{y}  # b  \n'''\n"),
        ("x = [1,  # one\n\n     2]\n", "x = [1,\n     2]\n"),
        ("é = 'é'; 'not a docstring'\n", "é = 'é'; 'not a docstring'\n"),
        ("def f():\n    'é' 'Doc.'\n    é = 1 # c\n", "def f():\n    é = 1\n"),
        ("x = 1\r\n\r\ny = 2\r\n", "x = 1\ny = 2\n"),
    ],
)
def test_hand_made_sources(source: str, expected: str) -> None:
    assert strip_source(source) == expected


def test_what_does_not_parse_is_an_error() -> None:
    with pytest.raises(SyntaxError):
        strip_source("print 'two'\n")
