"""Resample ablation: every prompt runs with the values of another one, whatever its batch."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from sparse_lens.ablation import (
    Ablation,
    BoundAblation,
    InterchangeAblation,
    ResampleAblation,
    draw_other_prompts,
)
from sparse_lens.baselines import ACDC, AttributionPatching, EdgePruning
from sparse_lens.circuit import Circuit
from sparse_lens.graphs import ChannelGraph, ComponentGraph, Graph
from sparse_lens.method import Method
from sparse_lens.node_pruning import NodePruning
from sparse_lens.objectives import TaskLoss
from sparse_lens.patching import answer_logits, bind, circuit_logits, patched, run_circuit
from sparse_lens.task import Prompts, Task
from tests import planted
from tests.patching import tiny
from tests.patching.tiny import difference

PADDED = tiny.prompts(5, padded=True)
DENSE, SPARSE = tiny.dense("LN", dtype=torch.float64), tiny.sparse("all of it", dtype=torch.float64)
each_graph = pytest.mark.parametrize(
    ("model", "graph"),
    [
        (DENSE, ComponentGraph.from_model(DENSE)),
        (DENSE, ChannelGraph.from_model(DENSE)),
        (SPARSE, ComponentGraph.from_model(SPARSE)),
        (SPARSE, ChannelGraph.from_model(SPARSE)),
    ],
    ids=["dense component", "dense channel", "component", "channel"],
)
each_kind = pytest.mark.parametrize("make", [tiny.random_nodes, tiny.random_edges])


def logits_under_each(model: Any, circuit: Circuit, prompts: Prompts) -> list[Tensor]:
    """By prompt, the answer logits of all prompts while what is absent carries its values there."""
    found = []
    for tokens in prompts.clean:
        ablation = InterchangeAblation(tokens=tokens[None])
        with patched(model, circuit, ablation=ablation, prompts=prompts):
            found.append(answer_logits(model, prompts))
    return found


@each_graph
@each_kind
@torch.no_grad()
def test_values_are_those_of_one_other_prompt_in_batches_of_any_size(
    model: Any, graph: Graph, make: Callable[..., Circuit]
) -> None:
    circuit = make(graph, 0.5, 1)
    under = logits_under_each(model, circuit, PADDED)
    assert PADDED.lengths is not None
    lengths = PADDED.lengths.tolist()
    by_seed = []
    for seed in range(3):
        bound = bind(model, graph, ResampleAblation(seed=seed))
        whole = circuit_logits(bound, circuit, PADDED)
        others = []
        for i, logits in enumerate(whole):
            (other,) = [j for j in range(5) if difference(logits, under[j][i]) < 1e-9]
            assert other != i
            assert lengths[other] >= lengths[i] or lengths[i] == max(lengths)
            others.append(other)
        for size in (1, 3):
            batched = circuit_logits(bound, circuit, PADDED, batch_size=size)
            assert difference(batched, whole) < 1e-9
        by_seed.append(others)
    assert by_seed[0] != by_seed[1] or by_seed[1] != by_seed[2], "seeds draw other prompts"


@each_graph
@torch.no_grad()
def test_rows_in_any_order_keep_their_other_prompt(model: Any, graph: Graph) -> None:
    circuit = tiny.random_nodes(graph, 0.5, 0)
    ablation, rows = ResampleAblation(seed=3), torch.tensor([4, 0, 0])
    whole = run_circuit(model, circuit, PADDED, ablation=ablation)
    drawn = bind(model, graph, ablation).for_prompts(PADDED)
    found = run_circuit(model, circuit, PADDED[rows], ablation=drawn.rows(rows))
    assert difference(found, whole[rows]) < 1e-9
    assert drawn.for_prompts(PADDED) is drawn


IN_BATCHES: dict[str, Method] = {
    "node pruning": NodePruning(n_steps=4, batch_size=5, learning_rate=0.05),
    "edge pruning": EdgePruning(n_steps=4, batch_size=5, micro_batch_size=2, initial_mean=0.5),
    "attribution": AttributionPatching(batch_size=5),
    "integrated gradients": AttributionPatching(batch_size=5, estimator="eap-ig-inputs"),
}
CASES: list[tuple[str, Method]] = [
    *((graph, method) for graph in ("component", "channel") for method in IN_BATCHES.values()),
    ("channel", AttributionPatching(batch_size=5, edges=True)),
    ("component", ACDC(thresholds=0.01, max_tokens=5 * planted.N_POSITIONS)),
]
CASE_IDS = [
    *(f"{graph} {name}" for graph in ("component", "channel") for name in IN_BATCHES),
    *("channel edges", "component ACDC"),
]


@pytest.mark.parametrize(("graph", "method"), CASES, ids=CASE_IDS)
def test_a_method_sees_the_same_other_prompts_in_all_of_its_passes(
    graph: str, method: Method
) -> None:
    problem = planted.problems()[f"sparse, {graph}, mean"]
    prompts = planted.task().train[:12]
    others = draw_other_prompts(prompts, torch.Generator().manual_seed(2))

    def scores(ablation: Ablation) -> dict[str, float]:
        task = Task("train", train=prompts)  # other splits would need other tokens
        found = method.discover(problem.model, problem.graph, task, ablation=ablation)
        return found.scores.by_name()

    found = scores(ResampleAblation(seed=2))
    expected = scores(InterchangeAblation(tokens=prompts.clean[others]))
    assert found == pytest.approx(expected, rel=1e-6, abs=1e-9)
    assert found != pytest.approx(scores(ResampleAblation(seed=3)), rel=1e-6, abs=1e-9)


@pytest.mark.parametrize("name", ["dense, channel", "sparse, component"])
def test_what_carries_the_answer_is_found(name: str) -> None:
    """Prompts differ in nothing else, so it is the circuit of interchange."""
    problem, task = planted.problems()[f"{name}, interchange"], planted.task()
    method = NodePruning(n_steps=40, learning_rate=0.05, k_coef=0.01)
    found = method.discover(problem.model, problem.graph, task, ablation=ResampleAblation())
    assert found.circuit == problem.node_circuit
    bound = bind(problem.model, problem.graph, ResampleAblation(seed=1))
    held_out = task.split("held_out")
    assert float(TaskLoss()(circuit_logits(bound, found.circuit, held_out), held_out).mean()) < 0.05


def test_a_row_with_the_same_tokens_is_no_other_prompt() -> None:
    prompts = tiny.prompts(3)
    twice = prompts[torch.tensor([0, 1, 0, 2, 0])]
    for seed in range(20):
        others = draw_other_prompts(twice, torch.Generator().manual_seed(seed))
        assert {int(others[i]) for i in (0, 2, 4)} <= {1, 3}
    # What stands in the padding makes no difference.
    padded = replace(prompts, clean=prompts.clean[:1].repeat(3, 1), lengths=torch.tensor([4, 4, 5]))
    padded.clean[1, 5] += 1
    assert draw_other_prompts(padded, torch.Generator())[:2].tolist() == [2, 2]


def test_what_resampling_refuses() -> None:
    model, graph = DENSE, ComponentGraph.from_model(DENSE)
    circuit, ablation = Circuit.full(graph), ResampleAblation()
    with pytest.raises(ValueError, match="only tokens here: pass Prompts, or InterchangeAblation"):
        run_circuit(model, circuit, PADDED.clean, ablation=ablation)
    for alone in (PADDED[:1], PADDED[torch.tensor([2, 2])]):
        with pytest.raises(ValueError, match=r"there is no other one: .* at least two different"):
            run_circuit(model, circuit, alone, ablation=ablation)
    bound: BoundAblation = bind(model, graph, ablation)
    with pytest.raises(ValueError, match=r"take bound.for_prompts\(prompts\).rows"):
        bound.rows(slice(0, 2))
