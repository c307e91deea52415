"""The method: its hyperparameters, and what it makes of the gates that were learned."""

from __future__ import annotations

from dataclasses import dataclass, field

from jaxtyping import Float
from torch import Tensor

from sparse_lens.baselines.edge_pruning.gates import EdgeGates
from sparse_lens.baselines.edge_pruning.training import Training
from sparse_lens.cost import CostMeter
from sparse_lens.hard_concrete import HardConcrete
from sparse_lens.method import Method
from sparse_lens.objectives import KLDivergence, Objective
from sparse_lens.patching import BoundAblation, frozen
from sparse_lens.ranking_method import Ranking, RankingMethod, ranking_of
from sparse_lens.scores import Scores
from sparse_lens.task import Task


@dataclass(frozen=True)
class EdgePruning(RankingMethod):
    """Learn a hard-concrete gate for every edge (Bhaskar et al. 2024, 2406.16778).

    All gates are drawn once a step. What is minimised is the objective plus the Lagrangian
    lambda_1 (s - t) + lambda_2 (s - t)^2, with s the sparsity now and t its target, which rises
    from 0; the multipliers, 0 at first, ascend. Afterwards edges are ranked by the log alpha of
    their gates (see `EdgeGates.scores` where writers have gates, too), over the whole graph and
    never within a part of it, and the smallest number that meets the target loss on the
    validation prompts is kept.

    On a component graph there is a gate for every pair of a writer and a reader, on a channel
    graph for every nonzero weight. Gates are float32 whatever the model computes in.

    The defaults are the paper's for GPT-2 small except where its value is named beside them. Those
    belong together and need its 3000 steps: gates that start at log alpha 10 are strictly between
    0 and 1, and so get a gradient from the objective or from an L0 of drawn gates, once in 5000
    draws, and in its program it is weight decay that brings them down. The defaults here
    count gates by their probabilities, which every gate feels in every step, and so take shorter
    strides and fewer of them; the target comes sooner, for the multipliers to settle.

    They suit component graphs. Of the 100,000 gates and more of a channel graph most are still open
    when the steps are over. Start them lower and in another method's order there, ask for more, and
    train for what the circuit has to meet: `EdgePruning(TaskLoss(), target_sparsity=0.999,
    initial_mean=2, initial=AttributionPatching())` came to a sixth of the edges on two tasks of
    `py-sparse`.
    """

    objective: Objective = field(default_factory=KLDivergence)

    target_sparsity: float = 0.97
    """Share of edges that are gone when the gates have been learned."""

    target_warmup_fraction: float = 0.5
    """Share of the steps in which the target rises linearly from 0 to `target_sparsity`; in the
    paper 2500 of 3000."""

    expected_l0: bool = True
    """Count edges by the probabilities that their gates are open; else, as the paper's program
    does, by the gates drawn."""

    writer_gates: bool = False
    """Give every writer a gate as well, which closes all its edges at once."""

    initial: Scores | Method | None = None
    """Scores, or the method to find them, by which gates start in order: edges of low scores lower
    than others. Scores are taken by absolute value, those of a method as it ranks by them; of node
    scores an edge has the lower of its ends'."""

    initial_spread: float = 8.0
    """With `initial`: how much lower the log alpha of the last edge starts than that of the first;
    the others lie between them by rank."""

    initial_mean: float = 10.0
    """Mean of log alpha at the start."""

    initial_std: float = 0.01
    """Standard deviation of log alpha at the start."""

    gate: HardConcrete = field(default_factory=HardConcrete)
    """The distribution of the gates."""

    n_steps: int = 300
    """Optimisation steps; the paper takes 3000."""

    batch_size: int = 32
    """Prompts a step."""

    micro_batch_size: int | None = None
    """Prompts that are in memory at once; the results do not depend on it. None for all."""

    learning_rate: float = 0.2
    """Of log alpha; in the paper 0.8."""

    multiplier_learning_rate: float = 0.8
    """Of the two multipliers."""

    warmup_fraction: float = 200 / 3000
    """Share of the steps in which the learning rates rise; they fall linearly in the rest."""

    weight_decay: float = 0.0
    """Of log alpha and multipliers. The paper's program has 0.01, by accident."""

    checkpoint: str | None = None
    """A file to save the state of the optimisation in, and to go on from where it exists."""

    checkpoint_every: int = 100
    """Steps between two saves."""

    def __post_init__(self) -> None:
        for name in ("n_steps", "batch_size", "micro_batch_size", "checkpoint_every"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}.")
        if not 0 <= self.target_sparsity < 1:
            raise ValueError(f"target_sparsity must lie in [0, 1), got {self.target_sparsity}.")
        for name in ("target_warmup_fraction", "warmup_fraction"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must lie in [0, 1], got {getattr(self, name)}.")
        if self.initial_spread < 0:
            raise ValueError(f"initial_spread must not be negative, got {self.initial_spread}.")

    def rank(self, bound: BoundAblation, task: Task, *, seed: int, meter: CostMeter) -> Ranking:
        """Learn a gate for every edge.

        The history has a row a step: the objective, the sparsity, its target and the multipliers.

        Raises:
            ValueError: when the checkpoint belongs to another run.
            FileNotFoundError: when its folder does not exist.
        """
        with frozen(bound.model):
            gates = EdgeGates(bound.graph, writers=self.writer_gates, device=bound.device)
            order = self._order(gates, bound, task, seed, meter)
            training = Training(self, bound, gates, task.train, order, seed)
            training.run(meter)
        scores = gates.scores(training.log_alpha, self.gate.offset)
        return Ranking(scores, history=tuple(training.history))

    def _order(
        self, gates: EdgeGates, bound: BoundAblation, task: Task, seed: int, meter: CostMeter
    ) -> Float[Tensor, " edges"] | None:
        """Ranks of the edges by the initial scores: 0 for the last, 1 for the first."""
        if self.initial is None:
            return None
        scores = self.initial
        if isinstance(scores, Method):
            scores = ranking_of(scores, bound, task, seed=seed, meter=meter).scores
        distinct, rank = gates.of_scores(scores).unique(return_inverse=True)
        return rank.float() / max(1, len(distinct) - 1)
