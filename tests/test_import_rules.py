"""Who may import whom: imports point downwards; hooks and plotly stay in their places."""

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import networkx as nx

ROOT = Path(__file__).resolve().parents[1]

# The floors of docs/architecture.md, from the ground up. A part (a folder or a single module)
# imports from the floors below its own alone: those on one floor do not know each other.
DOCUMENT = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
FLOORS = DOCUMENT.partition("```text floors\n")[2].partition("```")[0].splitlines()
LEVEL = {part: level for level, floor in enumerate(FLOORS) for part in floor.split(", ")}

# Imports inside a function or for type checkers alone that point back up, as (importer, imported).
BACKWARD = {
    # A type that saves, loads and converts itself by modules that stand on it.
    ("circuit", "circuit_io"),
    ("circuit", "circuit_network"),
    ("circuit", "eap_ig"),
    ("discovery", "discovery_io"),
    ("scores", "eap_ig"),
    ("task", "task_io"),
    # A discovery names its method; the method says that it returns one.
    ("method", "discovery"),
    ("baselines.edge_pruning.training", "baselines.edge_pruning.method"),
}

# Defining hook points (models) and counting passes (cost) is not touching activations.
REGISTERS_HOOKS = {
    *("register_forward_hook", "register_full_backward_hook"),
    *("add_hook", "add_perma_hook"),
}


@dataclass(frozen=True)
class Import:
    name: str
    """Dotted; for `from a import b` the module `a.b` where there is one, else `a`."""

    at_once: bool
    """Neither inside a function nor for type checkers alone."""

    relative: bool


@dataclass(frozen=True)
class File:
    path: Path
    """From the root of the repository."""

    text: str

    @property
    def name(self) -> str:
        """Dotted, without the leading `sparse_lens`: `graphs.base`, `baselines.acdc`."""
        parts = self.path.with_suffix("").parts
        parts = parts[1:] if parts[0] == "sparse_lens" else parts
        return ".".join(parts).removesuffix(".__init__")

    @property
    def part(self) -> str:
        return self.name.partition(".")[0]

    @cached_property
    def tree(self) -> ast.Module:
        return ast.parse(self.text)

    @cached_property
    def imports(self) -> tuple[Import, ...]:
        return tuple(self._imports())

    def _imports(self) -> Iterator[Import]:
        later = {
            id(inner)
            for outer in ast.walk(self.tree)
            if isinstance(outer, ast.FunctionDef)
            or (isinstance(outer, ast.If) and ast.unparse(outer.test) == "TYPE_CHECKING")
            for inner in ast.walk(outer)
        }
        for node in ast.walk(self.tree):
            at_once = id(node) not in later
            if isinstance(node, ast.Import):
                yield from (Import(alias.name, at_once, False) for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                module = node.module or ""
                for alias in node.names:
                    submodule = f"{module}.{alias.name}"
                    name = submodule if submodule.partition(".")[2] in MODULES else module
                    yield Import(name, at_once, node.level > 0)

    @property
    def own_imports(self) -> set[tuple[str, bool]]:
        """Modules of this library that it imports, by name, and whether at once."""
        return {
            (each.name.partition(".")[2], each.at_once)
            for each in self.imports
            if each.name.partition(".")[0] == "sparse_lens"
        }


def read(folder: str) -> list[File]:
    """The files of a folder; `sparse_lens/baselines` and `sparse_lens/evals` are links."""
    links = (ROOT / "sparse_lens" / "baselines", ROOT / "sparse_lens" / "evals")
    return [
        File(path.relative_to(ROOT), path.read_text(encoding="utf-8"))
        for path in sorted((ROOT / folder).rglob("*.py"))
        if not any(path.is_relative_to(link) for link in links)
    ]


FACE = "__init__"
"""sparse_lens/__init__.py: the public names come from everywhere."""

LIBRARY = [file for folder in ("sparse_lens", "baselines", "evals") for file in read(folder)]
MODULES = {file.name: file for file in LIBRARY if file.name != FACE}


def part_of(module: str) -> str:
    return module.partition(".")[0]


def test_every_part_has_its_floor():
    assert set(LEVEL) == {file.part for file in MODULES.values()}


def test_imports_point_downwards():
    offenders = [
        f"{file.path} imports {module}"
        for file in MODULES.values()
        for module, at_once in file.own_imports
        if at_once
        and part_of(module) != file.part
        and LEVEL.get(part_of(module), len(FLOORS)) >= LEVEL[file.part]
    ]
    assert not offenders


def test_what_points_back_up_is_known():
    """No two files import each other at once; the circles that late imports close are few."""
    graph = nx.DiGraph()
    graph.add_nodes_from(MODULES)
    graph.add_edges_from(
        (file.name, module)
        for file in MODULES.values()
        for module, at_once in file.own_imports
        if at_once and module != file.name
    )
    assert nx.is_directed_acyclic_graph(graph), nx.find_cycle(graph)
    backward = {
        (file.name, module)
        for file in MODULES.values()
        for module, at_once in file.own_imports
        if not at_once and nx.has_path(graph, module, file.name)
    }
    assert backward == BACKWARD


def test_patching_is_imported_as_a_whole():
    """`ablation` alone gathers what its folder of ablations defines."""
    offenders = [
        f"{file.path} imports {module}"
        for file in MODULES.values()
        for module, _ in file.own_imports
        if module.startswith("patching.") and file.part not in ("patching", "ablation")
    ]
    assert not offenders


def test_imports_are_absolute_and_through_sparse_lens():
    """The bare names `baselines` and `evals` are anybody's folders."""
    offenders = [
        f"{file.path} imports {each.name or '.'}"
        for file in LIBRARY
        for each in file.imports
        if each.relative or each.name.partition(".")[0] in ("baselines", "evals")
    ]
    assert not offenders


def test_training_stands_on_models_alone():
    """And on how files are written."""
    offenders = [
        f"{file.path} imports {module}"
        for file in MODULES.values()
        for module, _ in file.own_imports
        if file.part == "training" and part_of(module) not in ("training", "models", "atomic")
    ]
    assert not offenders


def test_only_plotting_imports_plotly():
    offenders = [
        str(file.path)
        for file in LIBRARY
        if any(part_of(each.name) == "plotly" for each in file.imports)
        and not file.name.startswith("plotting.")
    ]
    assert not offenders


def test_only_patching_registers_hooks():
    offenders = [
        f"{file.path} has {node.attr}"
        for file in LIBRARY
        for node in ast.walk(file.tree)
        if isinstance(node, ast.Attribute)
        and node.attr in REGISTERS_HOOKS
        and file.part != "patching"
    ]
    assert not offenders


def test_nobody_asks_for_the_slow_attention_results():
    slow = ("set_use_attn_result", "use_attn_result = True")
    assert not [str(file.path) for file in LIBRARY if any(name in file.text for name in slow)]
