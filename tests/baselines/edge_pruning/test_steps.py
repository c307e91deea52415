"""Steps of the optimisation, by formula, by hand, and in parts."""

from typing import Any

import pytest
import torch

from sparse_lens.ablation import InterchangeAblation
from sparse_lens.baselines.edge_pruning import EdgePruning
from sparse_lens.baselines.edge_pruning.gates import EdgeGates
from sparse_lens.discovery import Discovery
from sparse_lens.hard_concrete import HardConcrete
from sparse_lens.objectives import KLDivergence, NegatedLogitDifference, Objective, TaskLoss
from sparse_lens.patching import answer_logits, patched
from sparse_lens.scores import Scores
from tests.baselines.edge_pruning.problems import SHORT, TASK, at_start, discover, tiny_problem


def two_steps_by_hand(kind: str, writers: bool, expected_l0: bool) -> Scores:
    """Scores after two steps, by autograd through the whole loss and Adam written out."""
    model, graph = tiny_problem(kind)
    gates, gate = EdgeGates(graph, writers=writers), HardConcrete()
    generator = torch.Generator().manual_seed(3)
    log_alpha = 0.5 + torch.randn(gates.n_gates, generator=generator)
    multipliers = torch.zeros(2)
    means = [(torch.zeros_like(x), torch.zeros_like(x)) for x in (log_alpha, multipliers)]
    order = None
    for step in range(2):
        log_alpha.requires_grad_()
        multipliers.requires_grad_()
        u = 1e-6 + (1 - 2e-6) * torch.rand(gates.n_gates, generator=generator)
        s = ((u / (1 - u)).log() + log_alpha).div(2 / 3).sigmoid()
        drawn = (1.2 * s - 0.1).clamp(0, 1)
        if order is None:
            order = torch.randperm(10, generator=generator)
        batch = TASK.train[order[4 * step : 4 * step + 4]]
        with patched(model, gates.masks(drawn), ablation=InterchangeAblation(), prompts=batch):
            loss = NegatedLogitDifference()(answer_logits(model, batch), batch).mean()
        counted = gate.probability_open(log_alpha) if expected_l0 else drawn
        nodes = torch.ones(graph.n_nodes)
        for site, mask in gates.masks(counted).nodes.items():
            nodes = torch.cat(
                [
                    nodes[: graph.node_slices[site].start],
                    mask,
                    nodes[graph.node_slices[site].stop :],
                ]
            )
        kept = torch.zeros(())
        for block, mask in gates.masks(counted).edges.items():
            kept = (
                kept
                + (mask * nodes[graph.blocks[block].src_nodes])[graph.edge_support[block]].sum()
            )
        excess = 1 - kept / graph.n_edges - 0.9 * step / 2
        loss = loss + multipliers[0] * excess + multipliers[1] * excess**2
        gradients = torch.autograd.grad(loss, [log_alpha, multipliers])
        with torch.no_grad():
            for parameter, gradient, (m, v), sign in zip(
                (log_alpha, multipliers), gradients, means, (-1, 1), strict=True
            ):
                m.mul_(0.9).add_(0.1 * gradient)
                v.mul_(0.999).add_(0.001 * gradient**2)
                unbiased = (v / (1 - 0.999 ** (step + 1))).sqrt() + 1e-8
                rate = (step + 1) / 2  # a warm-up of two steps
                parameter += sign * 0.25 * rate * (m / (1 - 0.9 ** (step + 1))) / unbiased
        log_alpha, multipliers = log_alpha.detach(), multipliers.detach()
    return gates.scores(log_alpha, gate.offset)


@pytest.mark.parametrize("kind", ["component", "channel"])
@pytest.mark.parametrize("expected_l0", [True, False])
@pytest.mark.parametrize("writers", [True, False])
def test_steps_follow_the_formulas(kind: str, expected_l0: bool, writers: bool) -> None:
    settings: dict[str, Any] = {
        "objective": NegatedLogitDifference(),
        "target_sparsity": 0.9,
        "target_warmup_fraction": 1.0,
        "n_steps": 2,
        "warmup_fraction": 1.0,
        "learning_rate": 0.25,
        "multiplier_learning_rate": 0.25,
        "writer_gates": writers,
        "expected_l0": expected_l0,
    }
    found = discover(kind, seed=3, **settings).scores.by_name()
    assert found == pytest.approx(two_steps_by_hand(kind, writers, expected_l0).by_name(), abs=2e-3)


@pytest.mark.parametrize("kind", ["component", "channel"])
def test_the_target_rises_linearly_and_stays(kind: str) -> None:
    found = discover(kind, n_steps=8, target_sparsity=0.8, target_warmup_fraction=0.5)
    targets = [row["target"] for row in found.history]
    assert targets == pytest.approx([0, 0.2, 0.4, 0.6, 0.8, 0.8, 0.8, 0.8])


def test_gates_and_multipliers_do_not_decay_unless_asked_to() -> None:
    """In the first step the multipliers are 0 and gates this far open have no gradient."""
    model, graph = tiny_problem("component")
    settings = {"initial_mean": 40.0, "learning_rate": 0.1}
    assert set(at_start(graph, model, **settings).values()) == {40.0}
    decayed = at_start(graph, model, weight_decay=0.5, **settings)
    assert list(decayed.values()) == pytest.approx([40 * (1 - 0.1 * 0.5)] * graph.n_edges)


@pytest.mark.parametrize("kind", ["component", "channel"])
def test_gates_are_float32_in_a_bfloat16_model(kind: str) -> None:
    """A small step from log alpha 4 is lost in bfloat16, whose next number below is 3.98."""
    model, graph = tiny_problem(kind, dtype=torch.bfloat16)
    method = EdgePruning(n_steps=1, initial_mean=4.0, initial_std=0.0, learning_rate=1e-3)
    found = method.discover(model, graph, TASK, ablation=InterchangeAblation())
    distances = [abs(score - 4) for score in found.scores.by_name().values()]
    assert 5e-4 < max(distances) < 2e-3
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}


@pytest.mark.parametrize("kind", ["component", "channel"])
def test_same_seed_same_gates(kind: str) -> None:
    torch.manual_seed(0)
    first = discover(kind, seed=1)
    torch.manual_seed(1)
    again, other = discover(kind, seed=1), discover(kind, seed=2)
    assert first.history == again.history
    assert first.scores.by_name() == again.scores.by_name()
    assert first.scores.by_name() != other.scores.by_name()


@pytest.mark.parametrize("kind", ["component", "channel"])
@pytest.mark.parametrize("objective", [KLDivergence(), TaskLoss()], ids=["KL", "task loss"])
def test_micro_batches_equal_the_whole_batch(kind: str, objective: Objective) -> None:
    model, graph = tiny_problem(kind, dtype=torch.float64)

    def run(**settings: Any) -> Discovery:
        settings = {**SHORT, "n_steps": 4, **settings}
        method = EdgePruning(objective=objective, **settings)
        return method.discover(model, graph, TASK, ablation=InterchangeAblation())

    whole = run()
    for size in (1, 3):
        parts = run(micro_batch_size=size)
        for row, same in zip(whole.history, parts.history, strict=True):
            assert same == pytest.approx(row, rel=1e-5)
        scores = list(whole.scores.by_name().values())
        assert list(parts.scores.by_name().values()) == pytest.approx(scores, rel=1e-4, abs=1e-4)
