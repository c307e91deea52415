"""The slow reference: it is the model when nothing is cut, and knows nothing of the fast passes."""

import ast
from pathlib import Path
from typing import Any

import pytest
import torch

import sparse_lens.patching.reference as reference
from sparse_lens.circuit import Circuit
from sparse_lens.graphs import ChannelGraph, ComponentGraph
from tests.patching import tiny
from tests.patching.tiny import TOLERANCE, difference, each_channel_model, each_component_model

TOKENS = tiny.prompts().clean
FILES = sorted(Path(reference.__file__).parent.glob("*.py"))
BELOW = ("circuit", "graphs", "masks", "models", "patching.reference")
"""What of the library the reference stands on."""


@each_component_model
@torch.no_grad()
def test_the_full_component_circuit_is_the_model(make: Any, name: str) -> None:
    model = make(name, dtype=torch.float64)
    graph = ComponentGraph.from_model(model)
    expected = model(TOKENS)
    every_edge = Circuit.from_edge_masks(graph, dict(graph.edge_support))
    for circuit in (Circuit.full(graph), every_edge):
        assert difference(reference.run_circuit(model, circuit, TOKENS), expected) < TOLERANCE


@each_channel_model
@torch.no_grad()
def test_the_full_channel_circuit_is_the_model(make: Any, name: str) -> None:
    model = make(name, dtype=torch.float64)
    graph = ChannelGraph.from_model(model)
    full = Circuit.full(graph)
    assert difference(reference.run_circuit(model, full, TOKENS), model(TOKENS)) < TOLERANCE
    _, cache = model.run_with_cache(TOKENS)
    for site, value in reference.activations(model, full, TOKENS).items():
        if site.endswith((".mlp_post", ".attn_out", ".mlp_out", ".q", ".v", "final_resid")):
            found = cache[graph.sites[site].hook_name]
            assert difference(found.reshape(value.shape), value) < TOLERANCE, site


@pytest.mark.parametrize("kind", [ComponentGraph, ChannelGraph])
@torch.no_grad()
def test_the_empty_circuit_is_a_run_on_the_corrupted_prompts(kind: Any) -> None:
    model = tiny.dense("LN", dtype=torch.float64)
    graph, corrupted = kind.from_model(model), tiny.prompts().corrupted
    values = tiny.activations(model, graph, corrupted)
    empty = reference.run_circuit(model, Circuit.empty(graph), TOKENS, ablated=values)
    assert difference(empty, model(corrupted)) < TOLERANCE


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_it_imports_none_of_the_fast_code(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        for name in names:
            parts = name.split(".", 1)
            assert parts[0] != "sparse_lens" or parts[1].startswith(BELOW), name
