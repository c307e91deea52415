"""Batches of circuits that differ at one sublayer, against the slow reference."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from sparse_lens.ablation import InterchangeAblation, MeanAblation, ZeroAblation
from sparse_lens.circuit import Circuit
from sparse_lens.graphs import ChannelGraph, ComponentGraph
from sparse_lens.graphs.reachability import Acting
from sparse_lens.models.anatomy import anatomy_of
from sparse_lens.patching import CircuitVariants, bind, reference
from tests.patching import tiny
from tests.patching.tiny import difference

MODELS = [(tiny.dense, name) for name in tiny.DENSE] + [(tiny.sparse, name) for name in tiny.SPARSE]
COUPLED = ["Gemma 2", "OLMo 2", "OLMo 2, LayerNorm", "AbsTopK everywhere", "AbsTopK on writes"]
COUPLED += ["AbsTopK on q", "positions", "sinks and bigram", "all of it"]
FREE = [(make, name) for make, name in MODELS if name not in COUPLED]
PROMPTS = tiny.prompts(padded=True)
VARIANTS = 3


def build(make: Any, name: str, **changes: Any) -> tuple[Any, ComponentGraph]:
    model = make(name, dtype=torch.float64, **changes)
    return model, ComponentGraph.from_model(model)


def expected_logits(
    model: Any, graph: ComponentGraph, kept: np.ndarray, ablated: dict[str, torch.Tensor] | None
) -> torch.Tensor:
    """By the slow reference, at the answer positions."""
    circuit = Circuit.from_edge_masks(graph, {"edges": torch.from_numpy(kept.copy())})
    return at_answers(reference.run_circuit(model, circuit, PROMPTS.clean, ablated=ablated))


def at_answers(logits: torch.Tensor) -> torch.Tensor:
    return logits[torch.arange(len(PROMPTS)), PROMPTS.answer_positions]


def sublayers(graph: ComponentGraph) -> list[slice]:
    """Readers of one sublayer after the other, from the output back."""
    rows = [graph.logits_reader]
    for sublayer in reversed(graph.sublayers):
        rows += [sublayer.readers_of("v")] * (sublayer.kind == "heads")
        rows.append(sublayer.readers)
    return rows


@pytest.mark.parametrize(("make", "name"), FREE, ids=[f"{m.__name__} {n}" for m, n in FREE])
@torch.no_grad()
def test_variants_are_the_circuits_that_they_stand_for(make: Any, name: str) -> None:
    model, graph = build(make, name)
    ablated = tiny.activations(model, graph, PROMPTS.corrupted)
    bound = bind(model, graph, InterchangeAblation())
    kept = tiny.random_edges(graph, 0.7, 1).edge_mask("edges").numpy()
    circuit = CircuitVariants(bound, PROMPTS, kept)
    assert difference(circuit.logits, expected_logits(model, graph, kept, ablated)) < 1e-9
    random = np.random.default_rng(0)
    twice = [where for where in sublayers(graph) for _ in range(2)]
    for where in [*twice, *twice]:  # from the output back, then again
        rows = [row for row in range(where.start, where.stop) if circuit.acting.readers[row]]
        if not rows:
            continue
        less = random.random((VARIANTS, len(rows), graph.n_writers)) < 0.9
        variants = kept[rows] & less
        found = circuit.run(rows, variants)
        for logits, mask in zip(found, variants, strict=True):
            changed = kept.copy()
            changed[rows] = mask
            assert difference(logits, expected_logits(model, graph, changed, ablated)) < 1e-9
        circuit.adopt(1)
        kept[rows] = variants[1]
        assert np.array_equal(circuit.kept, kept)


@pytest.mark.parametrize("ablation", [ZeroAblation(), MeanAblation(tokens=PROMPTS.corrupted)])
@torch.no_grad()
def test_other_ablations(ablation: Any) -> None:
    model, graph = build(tiny.dense, "LN")
    kept = tiny.random_edges(graph, 0.5, 2).edge_mask("edges").numpy()
    values = None
    if isinstance(ablation, MeanAblation):
        live = tiny.activations(model, graph, PROMPTS.corrupted)
        values = {site: value.mean((1, 2)) for site, value in live.items()}
    circuit = CircuitVariants(bind(model, graph, ablation), PROMPTS, kept)
    assert difference(circuit.logits, expected_logits(model, graph, kept, values)) < 1e-9


@pytest.mark.parametrize(("make", "name"), FREE, ids=[f"{m.__name__} {n}" for m, n in FREE])
@torch.no_grad()
def test_positions_before_the_first_difference(make: Any, name: str) -> None:
    model, graph = build(make, name)
    shared = 2
    corrupted = torch.cat([PROMPTS.clean[:, :shared], PROMPTS.corrupted[:, shared:]], dim=1)
    prompts = replace(PROMPTS, corrupted=corrupted)
    assert int(prompts.answer_positions.min()) >= shared
    ablated = tiny.activations(model, graph, corrupted)
    kept = tiny.random_edges(graph, 0.8, 1).edge_mask("edges").numpy()
    circuit = CircuitVariants(bind(model, graph, InterchangeAblation()), prompts, kept)
    assert circuit.n_positions == prompts.clean.shape[1] - shared
    for layer in range(graph.n_layers):
        where = graph.heads(layer).readers
        rows = [row for row in range(where.start, where.stop) if circuit.acting.readers[row]]
        cut = np.zeros((1, len(rows), graph.n_writers), dtype=bool)
        changed = kept.copy()
        changed[rows] = False
        expected = expected_logits(model, graph, changed, ablated)
        assert difference(circuit.run(rows, cut)[0], expected) < 1e-9


@pytest.mark.parametrize(("make", "name"), FREE, ids=[f"{m.__name__} {n}" for m, n in FREE])
@torch.no_grad()
def test_the_full_circuit_is_the_model(make: Any, name: str) -> None:
    model, graph = build(make, name)
    kept = graph.edge_support["edges"].numpy()
    circuit = CircuitVariants(bind(model, graph, InterchangeAblation()), PROMPTS, kept)
    assert difference(circuit.logits, at_answers(model(PROMPTS.clean))) < 1e-9


@torch.no_grad()
def test_no_position_is_left_out_where_heads_attend_to_later_ones() -> None:
    model, graph = build(tiny.dense, "LN")
    model.blocks[1].attn._attention_dir_override = "bidirectional"
    corrupted = torch.cat([PROMPTS.clean[:, :2], PROMPTS.corrupted[:, 2:]], dim=1)
    prompts = replace(PROMPTS, corrupted=corrupted)
    kept = graph.edge_support["edges"].numpy()
    circuit = CircuitVariants(bind(model, graph, InterchangeAblation()), prompts, kept)
    assert circuit.n_positions == prompts.clean.shape[1]
    assert difference(circuit.logits, at_answers(model(PROMPTS.clean))) < 1e-9


@torch.no_grad()
def test_work_of_a_pass() -> None:
    model, graph = build(tiny.dense, "LN")
    bound, cfg = bind(model, graph, ZeroAblation()), model.cfg
    circuit = CircuitVariants(bound, PROMPTS, graph.edge_support["edges"].numpy())
    n = len(PROMPTS)
    logits = n * cfg.d_model * cfg.d_vocab
    assert circuit.work([graph.logits_reader.start]) == (1, logits)
    mlp = n * 2 * cfg.d_model * cfg.d_mlp  # the last one acts at the answer position only
    assert circuit.work([graph.mlp(1).readers.start]) == (2, logits + mlp)
    head = 2 * n * cfg.d_model * cfg.d_head  # reads and writes there, too
    query = graph.heads(1).readers_of("q").start
    assert circuit.work([query]) == (3, logits + mlp + head)


@pytest.mark.parametrize("name", COUPLED)
def test_coupled_heads_are_refused(name: str) -> None:
    make = tiny.dense if name in tiny.DENSE else tiny.sparse
    model, graph = build(make, name)
    assert anatomy_of(model).heads_are_coupled
    bound = bind(model, graph, InterchangeAblation())
    with pytest.raises(ValueError, match="act on each other directly"):
        CircuitVariants(bound, PROMPTS, graph.edge_support["edges"].numpy())


def test_channel_graphs_are_refused() -> None:
    model = tiny.dense("LN")
    graph = ChannelGraph.from_model(model)
    bound = bind(model, graph, ZeroAblation())
    with pytest.raises(ValueError, match="bound to a ComponentGraph"):
        CircuitVariants(bound, PROMPTS, np.ones((1, 1), dtype=bool))


@torch.no_grad()
def test_no_hook_of_the_user_fires_and_none_is_lost() -> None:
    model, graph = build(tiny.dense, "LN")
    bound = bind(model, graph, ZeroAblation())
    circuit = CircuitVariants(bound, PROMPTS, graph.edge_support["edges"].numpy())
    seen: list[str] = []
    model.add_hook("blocks.1.hook_mlp_out", lambda value, hook: seen.append(hook.name))
    row = graph.logits_reader.start
    circuit.run([row], np.zeros((2, 1, graph.n_writers), dtype=bool))
    assert seen == []
    model(PROMPTS.clean)
    assert seen == ["blocks.1.hook_mlp_out"]


def test_needs_at_the_answer_position() -> None:
    graph = ComponentGraph.from_model(tiny.dense("LN", n_heads=1))
    # input -> v of a0.h0 -> MLP 0 -> logits; nothing else acts.
    kept = np.zeros((graph.n_readers, graph.n_writers), dtype=bool)
    for edge in ("input->a0.h0<v>", "a0.h0->m0", "m0->logits", "input->a1.h0<q>"):
        _, reader, writer = graph.parse_edge(edge)
        kept[reader, writer] = True
    needs = Acting.of(graph, kept)
    assert names(graph.readers, needs.readers) == [
        "a0.h0<q>",
        "a0.h0<k>",
        "a0.h0<v>",
        "m0",
        "logits",
    ]
    assert names(graph.writers, needs.writers) == ["input", "a0.h0", "m0"]
    # A query acts from the answer position, keys and values from all before it, too.
    assert names(graph.readers, needs.readers_everywhere) == ["a0.h0<k>", "a0.h0<v>"]
    assert names(graph.writers, needs.writers_everywhere) == ["input"]


def names(all_names: tuple[str, ...], chosen: np.ndarray) -> list[str]:
    return [name for name, there in zip(all_names, chosen, strict=True) if there]
