"""ACDC as a method: its hyperparameters, the search for a threshold, and the discovery."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor
from transformer_lens import HookedTransformer

from sparse_lens.ablation import Ablation
from sparse_lens.baselines.acdc.batched import run_in_batches
from sparse_lens.baselines.acdc.one_at_a_time import run_one_by_one
from sparse_lens.baselines.acdc.pruning_run import Rule, Run
from sparse_lens.baselines.acdc.scores import scores_of_runs
from sparse_lens.baselines.acdc.targets import LossTarget, ThresholdTarget, bisect
from sparse_lens.circuit import Circuit
from sparse_lens.cost import CostMeter, metered
from sparse_lens.discovery import Discovery
from sparse_lens.graphs.base import Graph
from sparse_lens.graphs.component import ComponentGraph
from sparse_lens.method import Method, check_task
from sparse_lens.models.anatomy import anatomy_of
from sparse_lens.objectives import KLDivergence, Objective
from sparse_lens.patching import (
    BoundAblation,
    bind,
    circuit_logits,
    full_logits_for,
    has_hooks_of_others,
)
from sparse_lens.search import ChosenCircuit
from sparse_lens.target import PAPER, Target, mean_of_worst, upper_bound
from sparse_lens.task import Prompts, Task


@dataclass(frozen=True)
class ACDC(Method):
    """Automatic circuit discovery (Conmy et al. 2304.14997, algorithm 1).

    Readers are visited from the logits backwards, and the writers of each from the latest backwards
    (see `sparse_lens.baselines.acdc.order`). An edge is removed for good when its removal changes
    the objective, a mean over the train prompts, by less than the threshold. Edges into nodes that
    no longer act on the output are removed without a test. Nothing is random.

    On a component graph the result is that of the loop over single edges, unless a decision lies
    within float error of the threshold (see `margin` in the history), but it takes fewer and
    smaller passes: see `run_in_batches` and `CircuitVariants`. Every edge takes a pass of its own
    on a channel graph, in models whose heads act on each other directly (through an AbsTopK or a
    norm over all of them), and in models with hooks that are not ours.
    """

    objective: Objective = field(default_factory=KLDivergence)

    thresholds: float | Sequence[float] | None = None
    """Each gives a circuit. None: only the thresholds that the search runs."""

    absolute: bool = False
    """Compare the absolute change, so that edges whose removal lowers the objective are kept."""

    start: Circuit | None = None
    """The circuit to remove edges from, such as another method's; None for the whole graph. A node
    circuit is converted to its edges. Required on a channel graph, where each edge takes a pass."""

    search_for: ThresholdTarget | None = None
    """What to bisect the threshold for. None with `thresholds=None`: for `target`."""

    target: Target = PAPER
    """What the chosen circuit meets on the validation prompts."""

    n_bisections: int = 8
    """Bisections of a search, at most, after it has found a threshold on either side."""

    max_tokens: int = 2**13
    """Token positions in one pass: prompts times positions times removals tried together. More
    take more memory; the circuit does not depend on it."""

    def __post_init__(self) -> None:
        if isinstance(self.thresholds, Sequence):
            object.__setattr__(self, "thresholds", tuple(self.thresholds))
        for threshold in self._thresholds:
            if not 0 < threshold < math.inf:
                raise ValueError(f"thresholds must be positive and finite, got {threshold}.")
        if self.thresholds is not None and not self._thresholds:
            raise ValueError("thresholds=() runs nothing; pass None for a search.")
        if self.max_tokens < 1 or self.n_bisections < 0:
            raise ValueError(
                "max_tokens must be 1 or more and n_bisections 0 or more, got "
                f"{self.max_tokens} and {self.n_bisections}."
            )

    @property
    def is_deterministic(self) -> bool:
        """Always: edges are tried in a fixed order."""
        return True

    def discover(
        self,
        model: HookedTransformer,
        graph: Graph,
        task: Task,
        *,
        ablation: Ablation | BoundAblation,
        seed: int = 0,
    ) -> Discovery:
        """Prune on the train prompts; bisect and choose on the validation prompts.

        The discovery's `circuits` are those of the thresholds in ascending order, with one row of
        the history each. Edges score by the largest threshold at which they were kept, see
        `scores_of_runs`. The chosen circuit is the smallest of `circuits` and the starting one that
        meets `target`.

        Raises:
            ValueError: for a task that does not fit the model, a channel graph without a starting
                circuit, a starting circuit of another graph, or a search for a loss without a
                validation split.
        """
        check_task(model, task)
        start = self._start(graph)
        with metered(model) as meter:
            bound = bind(model, graph, ablation)
            runs = self._runs(bound, start, task, meter)
            circuits = tuple(run.circuit for run in runs)
            chosen = None
            if task.validation is not None:
                chosen = _smallest(bound, (*circuits, start), task, self.target, meter)
            cost = meter.cost()
        return Discovery(
            method=self,
            task=task.name,
            scores=scores_of_runs(start, runs),
            chosen=chosen,
            cost=cost,
            seed=seed,
            history=tuple(_row(run) for run in runs),
            circuits=circuits,
        )

    @property
    def _thresholds(self) -> tuple[float, ...]:
        if self.thresholds is None:
            return ()
        return (
            tuple(self.thresholds) if isinstance(self.thresholds, Sequence) else (self.thresholds,)
        )

    def _start(self, graph: Graph) -> Circuit:
        """The circuit to remove edges from, as an edge circuit."""
        start = self.start
        if start is None:
            if not isinstance(graph, ComponentGraph):
                raise ValueError(
                    f"each of the {graph.n_edges:,} edges of {graph} takes ACDC a pass: pass "
                    "start=, another method's circuit (or Circuit.full(graph), if you mean it)."
                )
            start = Circuit.full(graph)
        if start.graph != graph:
            raise ValueError(f"the starting circuit belongs to {start.graph}, not to {graph}.")
        edges = {block: start.edge_mask(block) for block in graph.blocks}
        return Circuit.from_edge_masks(graph, edges, node_masks=dict(start.node_masks))

    def _runs(
        self, bound: BoundAblation, start: Circuit, task: Task, meter: CostMeter
    ) -> list[Run]:
        """One run per threshold, in ascending order."""
        train = task.train.to(bound.device)
        runs: dict[float, Run] = {}

        def run(threshold: float) -> Run:
            if threshold not in runs:
                runs[threshold] = self._run(bound, start, train, threshold, meter)
            return runs[threshold]

        for threshold in self._thresholds:
            run(threshold)
        may_shrink = self._may_shrink(bound, task, meter)
        if may_shrink is not None:

            def needs_smaller(threshold: float) -> tuple[bool, int]:
                circuit = run(threshold).circuit
                return may_shrink(circuit), circuit.n_edges

            bisect(needs_smaller, n_bisections=self.n_bisections)
        return [runs[threshold] for threshold in sorted(runs)]

    def _may_shrink(
        self, bound: BoundAblation, task: Task, meter: CostMeter
    ) -> Callable[[Circuit], bool] | None:
        """Whether a circuit is within what the threshold is bisected for; None for no search."""
        search_for = self.search_for
        if search_for is None:
            if self.thresholds is not None:
                return None
            return self.target.bind(bound, task.split("validation"), meter=meter).met_by_margin
        if isinstance(search_for, LossTarget):
            task.split("validation")

        def losses_of(circuit: Circuit, objective: Objective) -> Float[Tensor, " n"]:
            return _losses(bound, circuit, task.split("validation").to(bound.device), objective)

        return lambda circuit: search_for.needs_smaller(circuit, losses_of)

    def _run(
        self,
        bound: BoundAblation,
        start: Circuit,
        prompts: Prompts,
        threshold: float,
        meter: CostMeter,
    ) -> Run:
        rule = Rule(threshold, self.absolute)
        arguments = (bound, prompts, self.objective, start, rule)
        coupled = anatomy_of(bound.model).heads_are_coupled
        one_by_one = coupled or not isinstance(bound.graph, ComponentGraph)
        if one_by_one or has_hooks_of_others(bound.model):
            return run_one_by_one(*arguments, max_tokens=self.max_tokens)
        run = run_in_batches(*arguments, max_tokens=self.max_tokens)
        # These run parts of the model, so the meter, which counts calls of the model, misses them.
        meter.forward_passes += run.n_passes
        return run


def _smallest(
    bound: BoundAblation,
    circuits: tuple[Circuit, ...],
    task: Task,
    target: Target,
    meter: CostMeter,
) -> ChosenCircuit:
    """The smallest circuit that meets the target on the validation prompts, or the full one.

    As in `choose_circuit`, the target itself counts where no circuit meets it by the margin.
    """
    on_validation = target.bind(bound, task.split("validation"), meter=meter)
    means: dict[Circuit, float] = {}

    def chosen(circuit: Circuit) -> ChosenCircuit:
        tried = tuple((circuit.n_edges, mean) for circuit, mean in means.items())
        return ChosenCircuit(circuit, means[circuit], means[circuit] <= target.scale, tried)

    def bound_of(circuit: Circuit) -> float:
        losses = on_validation.losses(circuit)
        means[circuit] = mean_of_worst(losses)
        return upper_bound(losses, target.margin)

    for circuit in sorted(circuits, key=lambda circuit: circuit.n_edges):
        if bound_of(circuit) <= target.scale:
            return chosen(circuit)
    for circuit, mean in means.items():
        if mean <= target.scale:
            return chosen(circuit)
    full = Circuit.full(bound.graph)
    bound_of(full)
    return chosen(full)


@torch.no_grad()
def _losses(
    bound: BoundAblation, circuit: Circuit, prompts: Prompts, objective: Objective
) -> Float[Tensor, " n"]:
    """The circuit's objective on each of some prompts."""
    full = full_logits_for(objective, bound.model, prompts)
    return objective(circuit_logits(bound, circuit, prompts), prompts, full)


def _row(run: Run) -> dict[str, float]:
    """A row of the discovery's history."""
    return {
        "threshold": run.rule.threshold,
        "n_edges": float(run.circuit.n_edges),
        "objective": run.loss,
        "margin": run.margin,
        "edges_tested": float(len(run.changes)),
        "passes": float(run.n_passes),
    }
