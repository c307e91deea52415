"""An ablation can be written outside the package: it then works with everything that takes one."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from jaxtyping import Int
from torch import Tensor
from transformer_lens import HookedTransformer

import sparse_lens as sl
from sparse_lens.ablation import Ablation, BoundAblation, BoundConstants, MeanAblation, registry
from sparse_lens.baselines import ACDC, AttributionPatching, EdgePruning
from sparse_lens.circuit import Circuit
from sparse_lens.evals.results import Results
from sparse_lens.graphs import ChannelGraph, ComponentGraph, Graph
from sparse_lens.method import Method
from sparse_lens.node_pruning import NodePruning
from sparse_lens.objectives import TaskLoss
from sparse_lens.patching import bind, circuit_logits, mean_activations, run_circuit
from sparse_lens.target import Target
from sparse_lens.task import Prompts, Task
from tests import planted
from tests.evals import toy_comparison as toy
from tests.patching import tiny
from tests.patching.tiny import difference


@dataclass(frozen=True)
class NoisyMean(Ablation):
    """An absent node or edge carries its mean over reference tokens, and Gaussian noise."""

    scale: float = 0.3
    seed: int = 0

    def bind(self, model: HookedTransformer, graph: Graph) -> "BoundNoisyMean":
        means = mean_activations(model, graph, model.reference_tokens)  # type: ignore[arg-type]
        return BoundNoisyMean(model, graph, means, self.scale, self.seed)


@dataclass(frozen=True, eq=False)
class BoundNoisyMean(BoundAblation):
    """Noise is drawn for a set of prompts as a whole."""

    means: Mapping[str, Tensor] = field(repr=False)
    scale: float
    seed: int
    noise: Mapping[str, Tensor] | None = field(default=None, repr=False)

    def for_prompts(self, prompts: Prompts) -> BoundAblation:
        if self.noise is not None:
            return self
        generator, noise = torch.Generator().manual_seed(self.seed), {}
        for site, mean in self.means.items():
            drawn = torch.randn(*mean.shape[:-1], *prompts.clean.shape, mean.shape[-1],
                                generator=generator, dtype=mean.dtype)  # fmt: skip
            noise[site] = self.scale * drawn  # [n, pos, width] or [width, n, pos, d_model]
        return replace(self, noise=noise)

    def rows(self, rows: Int[Tensor, " rows"] | slice) -> BoundAblation:
        assert self.noise is not None
        noise = {site: drawn[..., rows, :, :] for site, drawn in self.noise.items()}
        return replace(self, noise=noise)

    def values(self, prompts: Prompts | None) -> Mapping[str, Tensor]:
        if self.noise is None:
            assert prompts is not None
            return self.for_prompts(prompts).values(prompts)
        means = {site: mean[..., None, None, :] for site, mean in self.means.items()}
        return {site: means[site] + drawn for site, drawn in self.noise.items()}


@dataclass(frozen=True, eq=False)
class BestShareOfMean(Ablation):
    """An absent node or edge carries the share of its mean under which the task loss is least.

    The simplest case of optimal ablation (Li and Janson 2024).
    """

    prompts: Prompts
    shares: tuple[float, ...] = (0.0, 0.5, 1.0, 1.5)

    def bind(self, model: HookedTransformer, graph: Graph) -> BoundConstants:
        means = mean_activations(model, graph, self.prompts.clean)
        candidates = [
            BoundConstants(model, graph, {site: share * mean for site, mean in means.items()})
            for share in self.shares
        ]
        losses = [loss(candidate, Circuit.empty(graph), self.prompts) for candidate in candidates]
        return candidates[losses.index(min(losses))]


def loss(bound: BoundAblation, circuit: Circuit, prompts: Prompts) -> float:
    return float(TaskLoss()(circuit_logits(bound, circuit, prompts), prompts).mean())


PROMPTS = tiny.prompts(4)
TOKENS = tiny.prompts(6, seed=7).clean


def model_and_graph(kind: str) -> tuple[Any, Graph]:
    make, name, graph_of = {
        "dense component": (tiny.dense, "grouped queries", ComponentGraph.from_model),
        "dense channel": (tiny.dense, "LN", ChannelGraph.from_model),
        "sparse component": (tiny.sparse, "plain", ComponentGraph.from_model),
        "sparse channel": (tiny.sparse, "all of it", ChannelGraph.from_model),
    }[kind]
    model = make(name, dtype=torch.float64)
    model.reference_tokens = TOKENS
    return model, graph_of(model)


each_graph = pytest.mark.parametrize(
    "kind", ["dense component", "dense channel", "sparse component", "sparse channel"]
)


@each_graph
@torch.no_grad()
def test_circuits_run_under_its_values(kind: str) -> None:
    model, graph = model_and_graph(kind)
    ablation = NoisyMean()
    drawn = bind(model, graph, ablation).for_prompts(PROMPTS)
    for circuit in (tiny.random_nodes(graph, 0.5, 0), tiny.random_edges(graph, 0.5, 0)):
        found = run_circuit(model, circuit, PROMPTS, ablation=ablation)
        for row in range(len(PROMPTS)):  # the prompt alone, its values as means of each position
            values = drawn.rows(slice(row, row + 1)).values(None)
            means = {site: value.squeeze(-3) for site, value in values.items()}
            alone = PROMPTS.clean[row : row + 1]
            expected = run_circuit(model, circuit, alone, ablation=MeanAblation(means=means))
            assert difference(found[row : row + 1], expected) < 1e-9
        bound = bind(model, graph, ablation)
        whole, batched = (circuit_logits(bound, circuit, PROMPTS, batch_size=n) for n in (64, 3))
        assert difference(whole, batched) < 1e-9


@each_graph
@torch.no_grad()
def test_sites_without_values_carry_zero(kind: str) -> None:
    model, graph = model_and_graph(kind)
    means = dict(mean_activations(model, graph, TOKENS))
    last = list(means)[-1]
    some = {site: mean for site, mean in means.items() if site != last}
    zeros = MeanAblation(means=means | {last: torch.zeros_like(means[last])})
    circuit = tiny.random_nodes(graph, 0.5, 0)
    found, expected = (
        run_circuit(model, circuit, PROMPTS, ablation=ablation)
        for ablation in (BoundConstants(model, graph, some), zeros)
    )
    assert difference(found, expected) < 1e-12


METHODS: dict[str, Method] = {
    "node pruning": NodePruning(n_steps=3, batch_size=5),
    "edge pruning": EdgePruning(n_steps=3, batch_size=5, micro_batch_size=2, initial_mean=0.5),
    "attribution": AttributionPatching(batch_size=5),
    "integrated gradients": AttributionPatching(batch_size=5, estimator="eap-ig-inputs"),
}
CASES = [
    *((graph, method) for graph in ("component", "channel") for method in METHODS.values()),
    ("component", ACDC(thresholds=0.01, max_tokens=5 * planted.N_POSITIONS)),
]
CASE_IDS = [*(f"{g} {name}" for g in ("component", "channel") for name in METHODS), "ACDC"]


@pytest.mark.parametrize(("graph", "method"), CASES, ids=CASE_IDS)
def test_methods_take_it(graph: str, method: Method, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without noise it is the mean, and with noise it is something else."""
    problem = planted.problems()[f"dense, {graph}, mean"]
    train = planted.task().train
    monkeypatch.setattr(problem.model, "reference_tokens", train.clean, raising=False)

    def scores(ablation: Ablation) -> dict[str, float]:
        task = Task("train", train=train[:12])
        found = method.discover(problem.model, problem.graph, task, ablation=ablation)
        return found.scores.by_name()

    mean = pytest.approx(scores(MeanAblation()), rel=1e-5, abs=1e-7)
    assert scores(NoisyMean(scale=0.0)) == mean
    assert scores(NoisyMean(scale=1.0)) != mean


def test_node_pruning_finds_what_was_planted(monkeypatch: pytest.MonkeyPatch) -> None:
    problem, task = planted.problems()["sparse, channel, mean"], planted.task()
    monkeypatch.setattr(problem.model, "reference_tokens", task.train.clean)
    method = NodePruning(n_steps=40, learning_rate=0.05, k_coef=0.01)
    ablation = NoisyMean(scale=0.01)
    found = method.discover(problem.model, problem.graph, task, ablation=ablation)
    assert found.circuit == problem.node_circuit


@pytest.mark.parametrize("name", ["dense, component, mean", "sparse, channel, mean"])
def test_constants_of_ones_own(name: str) -> None:
    problem, train = planted.problems()[name], planted.task().train
    bound = bind(problem.model, problem.graph, BestShareOfMean(train))
    empty = Circuit.empty(problem.graph)
    for other in (sl.ZeroAblation(), MeanAblation(tokens=train.clean)):
        other = bind(problem.model, problem.graph, other)
        assert loss(bound, empty, train) <= loss(other, empty, train) + 1e-6


@pytest.mark.parametrize("graph_of", [ChannelGraph.from_model, ComponentGraph.from_model])
def test_it_can_be_compared_under(graph_of: Any, tmp_path: Path) -> None:
    def compare(ablation: Ablation) -> Results:
        return sl.compare(
            [toy.model()], [toy.task()], [NodePruning(n_steps=2), AttributionPatching()],
            out=tmp_path, graph=graph_of, ablation=ablation, target=Target(5.0),
            budgets=toy.BUDGETS,
        )  # fmt: skip

    for record in compare(NoisyMean(scale=0.5)):
        assert record.status == "done", record.error
        assert record.ablation == {"type": "NoisyMean", "scale": 0.5, "seed": 0}
    n_lines = len((tmp_path / "results.jsonl").read_text().splitlines())
    compare(NoisyMean(scale=0.5))
    assert len((tmp_path / "results.jsonl").read_text().splitlines()) == n_lines, "all was there"
    compare(NoisyMean(scale=0.6))
    assert len((tmp_path / "results.jsonl").read_text().splitlines()) == 2 * n_lines


THEIRS = "from sparse_lens.ablation import ZeroAblation\n\nclass Nothing(ZeroAblation): ...\n"


def test_a_package_adds_one_to_the_command_line(install_package) -> None:
    ours = registry()
    assert list(ours) == ["mean", "zero", "interchange", "resample"]
    install_package("sparse_lens.ablations", "nothing = their_package:Nothing", THEIRS)
    assert registry()["nothing"].__name__ == "Nothing"
    assert set(registry()) == {"nothing", *ours}


@pytest.mark.parametrize(
    ("entry_point", "message"),
    [
        ("zero = their_package:Nothing", r"\['zero'\] in 'sparse_lens.ablations' have names"),
        ("task = sparse_lens.task:Task", "'task' of their-package .* not a subclass of"),
    ],
)
def test_what_a_package_cannot_add(entry_point: str, message: str, install_package) -> None:
    install_package("sparse_lens.ablations", entry_point, THEIRS)
    with pytest.raises(ValueError, match=message):
        registry()
