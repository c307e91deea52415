"""Robustness to ablating only random parts of what a circuit leaves out."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from sparse_lens.circuit import Circuit
from sparse_lens.evals.draws import Draws, check_count, check_share, random_subsets
from sparse_lens.evals.metrics import measure, with_full_logits
from sparse_lens.evals.question import ROBUSTNESS, Answers, Column, Question, Subject
from sparse_lens.parts import parts_of, rebuilt, whole_like
from sparse_lens.patching import BATCH_SIZE, BoundAblation
from sparse_lens.task import Prompts


@dataclass(frozen=True)
class RandomSubsets(Question):
    """The model with random parts of what the circuit leaves out ablated, and all else kept.

    See :func:`partly_ablated`.
    """

    draws: int = 8
    """Random subsets of the absent nodes or edges that are ablated, each alone."""

    share: float = 0.5
    """Probability with which an absent node or edge is in such a subset."""

    def __post_init__(self) -> None:
        check_count("draws", self.draws)
        check_share(self.share)

    def ask(self, subject: Subject) -> Answers:
        """Sizes and metrics of what ran in each draw."""
        draws = partly_ablated(
            subject.bound,
            subject.circuit,
            subject.prompts,
            share=self.share,
            draws=self.draws,
            seed=subject.seed,
            full_logits=subject.full_logits,
        )
        return {
            "n_nodes": [circuit.n_nodes for circuit in draws.circuits],
            "n_edges": [circuit.n_edges for circuit in draws.circuits],
            **draws.means(),
        }

    @property
    def columns(self) -> tuple[Column, ...]:
        """The task loss, its mean over draws and of the worst one."""
        return (
            Column(
                answer="task_loss",
                heading="subsets",
                title="two-way loss with random parts of the rest ablated, mean over parts",
                group=ROBUSTNESS,
                meaning=(
                    "Random parts of what the circuit leaves out are ablated, each alone, and all "
                    "else is kept: where the circuit is all that matters, the loss stays that of "
                    "the full model, on average and for the worst part."
                ),
            ),
            Column(
                answer="task_loss",
                heading="worst",
                title="the same, of the worst part",
                group=ROBUSTNESS,
                over_draws="max",
                target_words="with random parts of the rest ablated and all else kept, in every "
                "draw",
            ),
        )


def partly_ablated(
    bound: BoundAblation,
    circuit: Circuit,
    prompts: Prompts,
    *,
    share: float = 0.5,
    draws: int = 8,
    seed: int = 0,
    full_logits: Float[Tensor, "n vocab"] | None = None,
    batch_size: int = BATCH_SIZE,
) -> Draws:
    """The model with random subsets of what the circuit leaves out ablated.

    Under one fixed mean of everything absent, a search can settle on what happens to cancel there
    (Drori 2026); random parts of the rest ablated by themselves do not cancel in the same way. A
    circuit that is right is all that matters, so ablating any part of the rest changes little.

    Of a node circuit absent nodes are ablated, of an edge circuit absent edges; nodes that no edge
    can touch stay. What is ablated carries what `bound` says.

    Args:
        share: probability with which each absent node or edge is ablated.
        draws: of subsets.
        seed: of the draws.
        full_logits: the full model's, from `model_logits`, where they are at hand.

    Raises:
        ValueError: for a share outside (0, 1].
    """
    kept, whole = parts_of(circuit), whole_like(circuit)
    subsets = random_subsets(len(kept), share=share, draws=draws, seed=seed)
    prompts, full_logits = with_full_logits(bound, prompts, full_logits, batch_size)
    circuits = tuple(rebuilt(whole, kept | ~subset) for subset in subsets)
    metrics = (
        measure(bound, candidate, prompts, full_logits=full_logits, batch_size=batch_size)
        for candidate in circuits
    )
    return Draws(circuits, tuple(metrics))
