"""What absent nodes carry, and what cannot be bound."""

from typing import Any

import pytest
import torch

from sparse_lens.ablation import (
    Ablation,
    BoundConstants,
    InterchangeAblation,
    MeanAblation,
    ResampleAblation,
    ZeroAblation,
)
from sparse_lens.circuit import Circuit
from sparse_lens.cost import metered
from sparse_lens.graphs import ChannelGraph, ComponentGraph, Graph
from sparse_lens.patching import bind, circuit_logits, mean_activations, patched, run_circuit
from sparse_lens.task import Prompts
from tests.patching import tiny
from tests.patching.tiny import difference

PROMPTS = tiny.prompts()
DENSE = tiny.dense("LN")
SPARSE = tiny.sparse("all of it")
GRAPHS: list[tuple[Any, Graph]] = [
    (DENSE, ComponentGraph.from_model(DENSE)),
    (DENSE, ChannelGraph.from_model(DENSE)),
    (SPARSE, ComponentGraph.from_model(SPARSE)),
    (SPARSE, ChannelGraph.from_model(SPARSE)),
]
each_graph = pytest.mark.parametrize(
    ("model", "graph"), GRAPHS, ids=["dense component", "dense channel", "component", "channel"]
)


@each_graph
@torch.no_grad()
def test_means_leave_padding_out(model: Any, graph: Graph) -> None:
    padded = tiny.prompts(4, padded=True)
    assert padded.lengths is not None
    rows = list(zip(padded.clean, padded.lengths.tolist(), strict=True))
    apart = [mean_activations(model, graph, row[None, :length]) for row, length in rows]
    weights = padded.lengths / padded.lengths.sum()
    found = mean_activations(model, graph, padded.clean, lengths=padded.lengths, batch_size=3)
    for site, mean in found.items():
        parts = [w * one[site] for w, one in zip(weights, apart, strict=True)]
        expected = torch.stack(parts).sum(0)
        assert difference(mean, expected) < 1e-5, site
    by_position = mean_activations(
        model, graph, padded.clean, lengths=padded.lengths, per_position=True
    )
    last = mean_activations(model, graph, padded.clean[-1:], per_position=True)
    for site, mean in by_position.items():  # only the longest prompt reaches the last position
        assert difference(mean[..., -1, :], last[site][..., -1, :]) < 1e-5, site
    ablation = MeanAblation(tokens=padded.clean, lengths=padded.lengths)
    bound = bind(model, graph, ablation).values(None)
    assert all(difference(bound[site], mean) < 1e-6 for site, mean in found.items())


@each_graph
@torch.no_grad()
def test_means_do_not_depend_on_the_batch_size(model: Any, graph: Graph) -> None:
    tokens = tiny.prompts(7).clean
    for per_position in (False, True):
        one, many = (
            mean_activations(model, graph, tokens, per_position=per_position, batch_size=size)
            for size in (2, 32)
        )
        assert all(difference(one[site], many[site]) < 1e-6 for site in one)


@each_graph
def test_a_bound_ablation_prints_neither_the_model_nor_values(model: Any, graph: Graph) -> None:
    tokens = PROMPTS.clean
    for specification, name in (
        (ZeroAblation(), "BoundConstants"),
        (MeanAblation(tokens=tokens), "BoundConstants"),
        (InterchangeAblation(tokens=tokens), "BoundInterchange"),
    ):
        assert repr(bind(model, graph, specification)) == f"{name}(graph={graph})"
    assert repr(bind(model, graph, ResampleAblation(7))) == f"BoundResample(graph={graph}, seed=7)"


@each_graph
@torch.no_grad()
def test_reference_tokens_are_the_default(model: Any, graph: Graph) -> None:
    tokens = tiny.prompts(5, seed=4).clean
    model.reference_tokens = None
    with pytest.raises(ValueError, match=r"has none: pass MeanAblation\(tokens="):
        bind(model, graph, MeanAblation())
    model.reference_tokens = tokens
    try:
        found = bind(model, graph, MeanAblation()).values(None)
    finally:
        model.reference_tokens = None
    expected = bind(model, graph, MeanAblation(tokens=tokens)).values(None)
    assert all(torch.equal(found[site], expected[site]) for site in expected)


@each_graph
@torch.no_grad()
def test_means_per_position_serve_shorter_prompts_and_no_longer_ones(
    model: Any, graph: Graph
) -> None:
    bound = bind(model, graph, MeanAblation(tokens=PROMPTS.corrupted, per_position=True))
    circuit = tiny.random_nodes(graph, 0.5, 0)
    whole = run_circuit(model, circuit, PROMPTS.clean, ablation=bound)
    shorter = run_circuit(model, circuit, PROMPTS.clean[:, :4], ablation=bound)
    assert difference(whole[:, :4], shorter) < 1e-5
    with pytest.raises(ValueError, match="6 positions, the circuit runs on 3 x 8 tokens"):
        run_circuit(model, circuit, tiny.prompts(3, 8).clean, ablation=bound)


@each_graph
@torch.no_grad()
def test_interchange_tokens(model: Any, graph: Graph) -> None:
    circuit = tiny.random_edges(graph, 0.5, 0)
    own = run_circuit(model, circuit, PROMPTS, ablation=InterchangeAblation())
    given = InterchangeAblation(tokens=PROMPTS.corrupted)
    assert torch.equal(run_circuit(model, circuit, PROMPTS.clean, ablation=given), own)
    one = InterchangeAblation(tokens=PROMPTS.corrupted[:1])  # one row serves all
    found = run_circuit(model, circuit, PROMPTS.clean, ablation=one)
    same = PROMPTS.corrupted[:1].expand(3, -1)
    expected = run_circuit(model, circuit, PROMPTS.clean, ablation=InterchangeAblation(tokens=same))
    assert difference(found, expected) < 1e-5
    with pytest.raises(ValueError, match=r"pass Prompts, or InterchangeAblation\(tokens=...\)"):
        run_circuit(model, circuit, PROMPTS.clean, ablation=InterchangeAblation())
    for tokens in (PROMPTS.corrupted[:2], PROMPTS.corrupted[:, :5], PROMPTS.corrupted[:, :1]):
        with pytest.raises(ValueError, match="the circuit runs on 3 x 6 tokens"):
            run_circuit(model, circuit, PROMPTS.clean, ablation=InterchangeAblation(tokens=tokens))
    longer = InterchangeAblation(tokens=tiny.prompts(3, 8).corrupted)
    with pytest.raises(ValueError, match="3 x 8 tokens, the circuit runs on 3 x 6 tokens"):
        run_circuit(model, circuit, PROMPTS.clean, ablation=longer)


@each_graph
@torch.no_grad()
def test_slices_follow_batches(model: Any, graph: Graph) -> None:
    circuit = tiny.random_nodes(graph, 0.6, 0)
    prompts = tiny.prompts(5)
    ablations: list[Ablation] = [
        InterchangeAblation(),
        InterchangeAblation(tokens=prompts.corrupted),
        InterchangeAblation(tokens=prompts.corrupted[:1]),
        ResampleAblation(),
        MeanAblation(tokens=prompts.corrupted),
        ZeroAblation(),
    ]
    for ablation in ablations:
        bound = bind(model, graph, ablation)
        whole = run_circuit(model, circuit, prompts, ablation=bound)
        parts = [
            run_circuit(model, circuit, batch, ablation=part)
            for batch, part in bound.batches(prompts, 2)
        ]
        assert difference(torch.cat(parts), whole) < 1e-5
        rows = torch.tensor([3, 0])
        part = bound.for_prompts(prompts).rows(rows)
        found = run_circuit(model, circuit, prompts[rows], ablation=part)
        assert difference(found, whole[rows]) < 1e-5


@each_graph
def test_means_that_do_not_fit(model: Any, graph: Graph) -> None:
    means = dict(mean_activations(model, graph, PROMPTS.clean))
    first = next(iter(means))
    bind(model, graph, MeanAblation(means=means))
    wrong: list[tuple[dict, str]] = [
        (means | {"blocks.9.mlp_past": means[first]}, "no sites"),
        (means | {first + "s": means[first]}, f"Did you mean '{first}'"),
        ({k: v for k, v in means.items() if k != first}, f"1 are missing, {first}"),
        (means | {first: means[first][..., :-1]}, f"means of '{first}' must have shape"),
    ]
    for given, message in wrong:
        with pytest.raises(ValueError, match=message):
            bind(model, graph, MeanAblation(means=given))
    if "logits" in graph.sites:
        with pytest.raises(ValueError, match="no sites"):
            bind(model, graph, MeanAblation(means=means | {"logits": means[first]}))


def test_specifications_that_contradict_themselves() -> None:
    tokens = PROMPTS.clean
    with pytest.raises(ValueError, match=r"either means .* or tokens"):
        MeanAblation(means={}, tokens=tokens)
    with pytest.raises(ValueError, match="pass these, too"):
        MeanAblation(lengths=torch.tensor([1]))
    with pytest.raises(ValueError, match="drop it"):
        MeanAblation(means={}, per_position=True)
    with pytest.raises(ValueError, match="2 lengths for 3 rows"):
        mean_activations(DENSE, GRAPHS[0][1], tokens, lengths=torch.tensor([1, 2]))
    with pytest.raises(ValueError, match="no tokens"):
        mean_activations(DENSE, GRAPHS[0][1], tokens[:0])
    short = torch.tensor([4, 5, 5])
    with pytest.raises(ValueError, match="not padding"):
        mean_activations(DENSE, GRAPHS[0][1], tokens, lengths=short, per_position=True)


def other_models() -> list[tuple[Any, Graph, str]]:
    dense, sparse = tiny.dense, tiny.sparse
    component, channel = ComponentGraph.from_model, ChannelGraph.from_model
    other = sparse("plain")
    with torch.no_grad():
        other.blocks[0].mlp.W_in[other.blocks[0].mlp.W_in == 0] = 1.0
    return [
        (DENSE, component(dense("LN", n_layers=3)), "n_layers 3 against 2"),
        (DENSE, component(dense("one head")), "n_heads 1 against 4, d_head 16 against 4"),
        (DENSE, component(dense("attention only")), "attn_only True against False"),
        (DENSE, component(dense("parallel")), "parallel True against False"),
        (sparse("residual relu"), component(sparse("plain")), "not the sum"),
        (dense("rotary"), component(DENSE, split_embeddings=True), "split_embeddings needs"),
        (DENSE, channel(dense("LN", d_mlp=20)), r"width=20.* against .*width=24"),
        (DENSE, channel(dense("no norm")), "hook_attn_in.* against .*hook_norm"),
        (dense("LN", d_head=3), channel(sparse("plain")), "attn.hook_input.* against"),
        (other, channel(sparse("plain")), "other weights of block 'blocks.0.mlp_in"),
    ]


@pytest.mark.parametrize(("model", "graph", "message"), other_models())
def test_graphs_of_other_models_are_refused(model: Any, graph: Graph, message: str) -> None:
    for circuit in (Circuit.full(graph), Circuit.empty(graph)):
        with (
            pytest.raises(ValueError, match=message),
            patched(model, circuit, ablation=ZeroAblation()),
        ):
            pass
    with pytest.raises(ValueError, match=message):
        bind(model, graph, ZeroAblation())


def test_bound_ablations_stay_with_their_model_and_graph() -> None:
    (model, component), (_, channel) = GRAPHS[:2]
    bound = bind(model, component, ZeroAblation())
    assert bind(model, ComponentGraph.from_model(model), bound) is bound
    with pytest.raises(ValueError, match="bound to another graph"):
        run_circuit(model, Circuit.full(channel), PROMPTS, ablation=bound)
    with pytest.raises(ValueError, match="bound to another model"):
        run_circuit(tiny.dense("LN"), Circuit.full(component), PROMPTS, ablation=bound)


def test_prompts_may_lie_on_another_device_than_their_model_says() -> None:
    """Prompts are moved where they are used; here only the call itself can be checked."""
    prompts = Prompts(
        clean=PROMPTS.clean.int(),
        corrupted=PROMPTS.corrupted.int(),
        answers=PROMPTS.answers,
        distractors=None,
    )
    graph = GRAPHS[0][1]
    out = run_circuit(DENSE, Circuit.full(graph), prompts, ablation=InterchangeAblation())
    assert out.shape == (3, 6, tiny.VOCAB)


@each_graph
@pytest.mark.parametrize(
    "ablation",
    [
        ZeroAblation(),
        MeanAblation(tokens=PROMPTS.corrupted, per_position=True),
        InterchangeAblation(),
        InterchangeAblation(tokens=PROMPTS.corrupted[:1]),
        ResampleAblation(),
    ],
    ids=["zero", "mean", "interchange", "one row", "resample"],
)
@torch.no_grad()
def test_fixed_values_are_those_that_each_run_would_compute(
    model: Any, graph: Graph, ablation: Ablation
) -> None:
    bound = bind(model, graph, ablation)
    with metered(model) as meter:
        fixed = bound.fixed(PROMPTS)
        computed = meter.forward_passes
        for seed in range(2):
            circuit = tiny.random_nodes(graph, 0.5, seed)
            for size in (2, 64):
                before = meter.forward_passes
                found = circuit_logits(fixed, circuit, PROMPTS, batch_size=size)
                n_batches = -(-len(PROMPTS) // size)
                assert meter.forward_passes == before + n_batches
                assert difference(found, circuit_logits(bound, circuit, PROMPTS)) < 1e-5
    assert computed == (not isinstance(bound, BoundConstants))
    for rows in (slice(1, 3), torch.tensor([2, 0])):
        own, held = bound.for_prompts(PROMPTS).rows(rows), fixed.rows(rows)
        tokens, expected = held.tokens_of(PROMPTS[rows]), own.tokens_of(PROMPTS[rows])
        assert (tokens is None) == (expected is None)
        if tokens is not None and expected is not None:
            assert torch.equal(tokens, expected)
        values = own.values(PROMPTS[rows])
        assert held.values(PROMPTS[rows]).keys() == values.keys()
        for site, value in held.values(PROMPTS[rows]).items():
            assert difference(value, values[site]) < 1e-5, site
