"""Who may import whom: imports point one way, hooks and plotly stay in their places."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
LIBRARY = [
    path
    for folder in ("sparse_lens", "baselines", "evals")
    for path in sorted((ROOT / folder).rglob("*.py"))
    if not (folder == "sparse_lens" and path.relative_to(ROOT).parts[1] in ("baselines", "evals"))
]

# From the bottom of the house to the top. A module may import from its own layer and those below.
LAYERS = (
    ("models", "graphs", "circuit", "circuit_io", "circuit_network", "eap_ig", "scores", "masks",
     "ablation", "task", "task_io", "objectives", "calibration", "selection", "training", "atomic",
     "versions", "identity", "graph_file", "dataclass_json", "hard_concrete",
     "learning", "plugins"),
    ("patching",),
    ("method", "search", "discovery_io", "ranking_method"),
    ("node_pruning", "node_pruning_search", "baselines", "plotting"),
    ("evals",),
    ("commands", "cli"),
)  # fmt: skip
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}


def module_of(path: Path) -> str:
    """The part of the library that a file belongs to: `graphs` for sparse_lens/graphs/base.py."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return parts[1] if parts[0] == "sparse_lens" else parts[0]


def imports_of(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports here are absolute"
            yield node.module or ""
            # `from sparse_lens import patching` imports a module, too.
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def own_imports(path: Path) -> set[str]:
    """The parts of the library that a file imports."""
    found = set()
    for name in imports_of(path):
        parts = name.split(".")
        assert parts[0] not in ("baselines", "evals"), (
            f"{path}: import sparse_lens.{parts[0]}; the bare name is anybody's folder"
        )
        if parts[0] == "sparse_lens" and len(parts) > 1 and parts[1] in LEVEL:
            found.add(parts[1])
    return found


def ids(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", LIBRARY, ids=ids)
def test_imports_point_one_way(path):
    module = module_of(path)
    if module == "__init__":
        return  # the public names come from everywhere
    assert module in LEVEL, f"{module} has no place in the house: add it to LAYERS"
    above = {name for name in own_imports(path) if LEVEL[name] > LEVEL[module]}
    assert not above, f"{ids(path)} imports {sorted(above)} from above it"


@pytest.mark.parametrize("path", LIBRARY, ids=ids)
def test_baselines_and_evals_do_not_know_each_other(path):
    module, imported = module_of(path), own_imports(path)
    if module == "baselines":
        assert "evals" not in imported
    if module == "evals":
        assert not imported & {"baselines", "node_pruning"}, "methods come from the registry"


@pytest.mark.parametrize("path", LIBRARY, ids=ids)
def test_training_stands_on_models_alone(path):
    """And on how files are written."""
    if module_of(path) == "training":
        assert own_imports(path) <= {"models", "training", "atomic"}


@pytest.mark.parametrize("path", LIBRARY, ids=ids)
def test_only_plotting_and_the_report_import_plotly(path):
    if any(name.split(".")[0] == "plotly" for name in imports_of(path)):
        assert module_of(path) == "plotting" or path.parent.name == "report"


@pytest.mark.parametrize("path", LIBRARY, ids=ids)
def test_only_patching_registers_hooks(path):
    """Defining hook points (models) and counting passes (method) is not touching activations."""
    registering = (
        *("register_forward_hook", "register_full_backward_hook"),
        *("add_hook", "add_perma_hook"),
    )
    used = {
        node.attr
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Attribute) and node.attr in registering
    }
    if module_of(path) != "patching":
        assert not used


@pytest.mark.parametrize("path", LIBRARY, ids=ids)
def test_nobody_asks_for_the_slow_attention_results(path):
    text = path.read_text(encoding="utf-8")
    assert "set_use_attn_result" not in text
    assert "use_attn_result = True" not in text
