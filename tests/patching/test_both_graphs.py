"""What holds of a circuit's pass on component and channel graphs alike."""

from functools import cache
from typing import Any

import numpy as np
import pytest
import torch

from sparse_lens.ablation import InterchangeAblation, MeanAblation
from sparse_lens.circuit import Circuit
from sparse_lens.graphs import ChannelGraph, ComponentGraph
from sparse_lens.graphs.reachability import Acting
from sparse_lens.masks import Masks
from sparse_lens.patching import bind, circuit_activations, reference, run_circuit
from tests.patching import tiny
from tests.patching.tiny import TOLERANCE, difference

PROMPTS = tiny.prompts()
CASES = [
    *((ComponentGraph, *model) for model in tiny.COMPONENT_MODELS),
    *((ChannelGraph, *model) for model in tiny.CHANNEL_MODELS),
]
PADDED = [
    *((ComponentGraph, tiny.dense, name) for name in ("LN", "rotary", "grouped queries")),
    (ChannelGraph, tiny.dense, "LN"),
    (ChannelGraph, tiny.sparse, "all of it"),
]


def each(cases: list[Any]) -> pytest.MarkDecorator:
    names = [f"{graph.kind} {tiny.id_of((make, name))}" for graph, make, name in cases]
    return pytest.mark.parametrize(("of", "make", "name"), cases, ids=names)


@cache
def build(of: Any, make: Any, name: str) -> tuple[Any, Any]:
    """A model that the tests share: they leave it as they found it."""
    model = make(name, dtype=torch.float64)
    return model, of.from_model(model)


@each(CASES)
@torch.no_grad()
def test_the_empty_circuit_is_the_corrupted_run(of: Any, make: Any, name: str) -> None:
    """On a channel graph because the final stream is a site of it."""
    model, graph = build(of, make, name)
    found = run_circuit(model, Circuit.empty(graph), PROMPTS, ablation=InterchangeAblation())
    expected = model(PROMPTS.corrupted)
    if hasattr(model, "bigram_table"):  # always on, and that of the clean tokens
        expected = expected + model.bigram_table[PROMPTS.clean]
        expected = expected - model.bigram_table[PROMPTS.corrupted]
    assert difference(found, expected) < TOLERANCE


@each(CASES)
@torch.no_grad()
def test_masks_of_zeros_and_ones_that_need_gradients_are_the_hard_circuit(
    of: Any, make: Any, name: str
) -> None:
    model, graph = build(of, make, name)
    for circuit in (tiny.random_edges(graph, 0.6, 2), tiny.random_nodes(graph, 0.7, 2)):
        hard = run_circuit(model, circuit, PROMPTS, ablation=InterchangeAblation())
        masks = Masks.of(circuit)
        soft = Masks(
            graph,
            {name: gate.requires_grad_() for name, gate in masks.nodes.items()},
            {name: mask.requires_grad_() for name, mask in masks.edges.items()},
        )
        found = run_circuit(model, soft, PROMPTS, ablation=InterchangeAblation())
        assert difference(found, hard) < TOLERANCE


@each(PADDED)
@torch.no_grad()
def test_padding_on_the_right_does_not_reach_real_positions(of: Any, make: Any, name: str) -> None:
    model, graph = build(of, make, name)
    circuit = tiny.random_edges(graph, 0.6, 0)
    padded = tiny.prompts(padded=True)
    assert padded.lengths is not None
    together = run_circuit(model, circuit, padded, ablation=InterchangeAblation())
    for row, length in enumerate(padded.lengths.tolist()):
        clean, corrupted = padded.clean[row, None, :length], padded.corrupted[row, None, :length]
        ablation = InterchangeAblation(tokens=corrupted)
        alone = run_circuit(model, circuit, clean, ablation=ablation)
        assert difference(together[row, None, :length], alone) < TOLERANCE


@each(CASES)
@torch.no_grad()
def test_activations_of_a_circuit(of: Any, make: Any, name: str) -> None:
    """Of writers that act on the output, or channels, of which the pruned ones are ablated."""
    model, graph = build(of, make, name)
    bound = bind(model, graph, MeanAblation(tokens=PROMPTS.corrupted, per_position=True))
    means = bound.values(PROMPTS)  # [pos, width] or [width, pos, d_model]
    is_component = of is ComponentGraph
    ablated = {site: mean[:, None] if is_component else mean for site, mean in means.items()}
    for circuit in (tiny.random_nodes(graph, 0.7, 0), tiny.random_edges(graph, 0.6, 2)):
        found = circuit_activations(bound, circuit, PROMPTS)
        expected = reference.activations(model, circuit, PROMPTS.clean, ablated=ablated)
        assert found.keys() == expected.keys() == graph.valued_sites.keys()
        for site, values in found.items():
            kept = circuit.node_masks[site]
            if is_component:
                acting = kept & torch.from_numpy(acts(circuit))[graph.node_slices[site]]
                torch.testing.assert_close(values[acting], expected[site][acting])
            else:
                carried = torch.where(kept, expected[site], ablated[site])
                assert difference(values, carried) < TOLERANCE, site


def acts(circuit: Circuit) -> np.ndarray:
    """Which writers act on the output, bool [writers]."""
    graph = circuit.graph
    assert isinstance(graph, ComponentGraph)
    acting = Acting.of(graph, circuit.edge_mask("edges").numpy()).writers
    assert acting.any()
    return acting
