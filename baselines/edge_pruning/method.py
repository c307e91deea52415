"""Edge Pruning as a method: its hyperparameters, and the ranking by the learned gates."""

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

    All gates are drawn once per step. The gates minimise the objective plus the Lagrangian
    lambda_1 (s - t) + lambda_2 (s - t)^2, where s is the current sparsity and t its target, which
    rises from 0; the multipliers start at 0 and maximise it. Afterwards all edges of the graph are
    ranked together by the log alpha of their gates (with gates on writers, see
    `EdgeGates.scores`), and the smallest number that meets the target loss on the validation
    prompts is kept.

    On a component graph there is a gate for every pair of a writer and a reader, on a channel
    graph for every nonzero weight. Gates are float32 whatever the model computes in.

    The defaults are the paper's for GPT-2 small except where its value is named beside them. The
    paper's values belong together and need its 3000 steps: a gate that starts at log alpha 10 is
    strictly between 0 and 1, and so gets a gradient from the objective or from an L0 of drawn
    gates, in one of 5000 draws, and it is weight decay that lowers log alpha in the paper's
    program. The defaults here count gates by their probabilities of being open, which gives every
    gate a gradient in every step, and therefore use a lower learning rate and fewer steps; the
    target is reached sooner, so that the multipliers can settle.

    They suit component graphs. A channel graph has 100,000 gates and more, most of which are still
    open after these steps. There, start the gates lower and in another method's order, set a higher
    target sparsity, and train on the loss that the circuit has to meet: `EdgePruning(TaskLoss(),
    target_sparsity=0.999, initial_mean=2, initial=AttributionPatching())` reduced the circuits of
    two tasks of `py-sparse` to a sixth of the edges.
    """

    objective: Objective = field(default_factory=KLDivergence)

    target_sparsity: float = 0.97
    """Share of edges that are cut at the end of training."""

    target_warmup_fraction: float = 0.5
    """Share of the steps in which the target rises linearly from 0 to `target_sparsity`; in the
    paper 2500 of 3000."""

    expected_l0: bool = True
    """Measure sparsity by the probabilities that gates are open; otherwise, as in the paper's
    program, by the gates drawn."""

    writer_gates: bool = False
    """Give every writer a gate as well, which closes all its edges at once."""

    initial: Scores | Method | None = None
    """Scores, or a method that finds them, which order the initial log alphas: edges that rank low
    start lower. Edges rank by `Scores.importance`; of node scores an edge has the lower one of its
    two ends."""

    initial_spread: float = 8.0
    """With `initial`: the initial log alpha of the first edge minus that of the last; the others
    lie between them, linearly by rank."""

    initial_mean: float = 10.0
    """Mean of log alpha at the start."""

    initial_std: float = 0.01
    """Standard deviation of log alpha at the start."""

    gate: HardConcrete = field(default_factory=HardConcrete)
    """The distribution of the gates."""

    n_steps: int = 300
    """Optimisation steps; the paper takes 3000."""

    batch_size: int = 32
    """Prompts per step."""

    micro_batch_size: int | None = None
    """Prompts in one forward pass; the results do not depend on it, except by the draws of the
    target's conditions. None for the whole batch."""

    learning_rate: float = 0.2
    """Peak learning rate of log alpha; in the paper 0.8."""

    multiplier_learning_rate: float = 0.8
    """Peak learning rate of the two multipliers."""

    warmup_fraction: float = 200 / 3000
    """Share of the steps in which the learning rates rise linearly; then they fall linearly."""

    weight_decay: float = 0.0
    """Weight decay of log alpha and the multipliers. The paper's program has 0.01, AdamW's default,
    without intending any."""

    checkpoint: str | None = None
    """A file for the state of the optimisation; if it exists, training resumes from it."""

    checkpoint_every: int = 100
    """Steps between two checkpoints."""

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

        The history has one row per step: the objective, the sparsity, its target and the
        multipliers.

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
        """Ranks of the edges by the initial scores, from 0 for the lowest to 1 for the highest."""
        if self.initial is None:
            return None
        scores = self.initial
        if isinstance(scores, Method):
            scores = ranking_of(scores, bound, task, seed=seed, meter=meter).scores
        distinct, rank = gates.importance(scores).unique(return_inverse=True)
        return rank.float() / max(1, len(distinct) - 1)
