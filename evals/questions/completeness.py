"""Completeness: whether a circuit behaves like the model when parts of both are removed."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from sparse_lens.circuit import Circuit
from sparse_lens.evals.answers import Answer
from sparse_lens.evals.draws import check_count, check_share, random_subsets
from sparse_lens.evals.intervals import ends_of_interval, resampled_means
from sparse_lens.evals.question import MINIMAL_AND_COMPLETE, Answers, Column, Question, Subject
from sparse_lens.objectives import logit_difference
from sparse_lens.parts import node_names, removable_nodes, whole_like, without_nodes
from sparse_lens.patching import BATCH_SIZE, BoundAblation, circuit_logits
from sparse_lens.task import Prompts


@dataclass(frozen=True)
class Completeness(Question):
    """How far apart circuit and model are when the same nodes are removed from both.

    See :func:`completeness`.
    """

    draws: int = 8
    """Random subsets of the circuit's nodes that are removed; each runs circuit and model anew."""

    share: float = 0.5
    """Probability with which a node of the circuit is in such a subset."""

    def __post_init__(self) -> None:
        check_count("draws", self.draws)
        check_share(self.share)

    def ask(self, subject: Subject) -> Answers:
        """The incompleteness score: its mean over draws, and that of the worst draw."""
        scores = completeness(
            subject.bound,
            subject.circuit,
            subject.prompts,
            share=self.share,
            draws=self.draws,
            seed=subject.seed,
        ).scores
        return {
            "incompleteness": float(scores.mean()),
            "worst_incompleteness": float(scores.max()),
        }

    @property
    def columns(self) -> tuple[Column, ...]:
        """The mean and the worst incompleteness score."""
        return (
            Column(
                answer="incompleteness",
                heading="missing",
                title=(
                    "difference of circuit and model when parts of the circuit are removed from "
                    "both, in logits, mean over parts"
                ),
                group=MINIMAL_AND_COMPLETE,
                meaning=(
                    "Random parts of the circuit are removed from it and from the model: how far "
                    "their logit differences are then apart, on average and for the worst part. 0 "
                    "in a complete circuit; where the model has other nodes that stand in for "
                    "those removed, it is large."
                ),
            ),
            Column(
                answer="worst_incompleteness",
                heading="worst",
                title="the same, of the worst part",
                group=MINIMAL_AND_COMPLETE,
                over_draws="max",
            ),
        )


@dataclass(frozen=True, eq=False)
class CompletenessResult:
    """Logit differences of the circuit and of the model, both without some of its nodes."""

    removed: tuple[tuple[str, ...], ...]
    """Names of the removed nodes K of each draw."""

    circuit: Float[Tensor, "draws n"]
    """F(C without K): the logit difference of each example."""

    model: Float[Tensor, "draws n"]
    """F(M without K)."""

    @property
    def scores(self) -> Float[Tensor, " draws"]:
        """|F(C without K) - F(M without K)| of each draw, F a mean over examples; 0 is best."""
        return self._changes.mean(1).abs()

    def mean(self, *, seed: int = 0) -> Answer:
        """The incompleteness score as a mean over draws.

        An example's value is its signed part in it.

        Args:
            seed: of the bootstrap, which draws examples.
        """
        return self._answer(self._changes, seed)

    def worst(self, *, seed: int = 0) -> Answer:
        """The same of the draw with the largest score; the interval is that of this draw."""
        return self._answer(self._changes[self.scores.argmax()][None], seed)

    @property
    def _changes(self) -> Float[Tensor, "draws n"]:
        return self.circuit.double() - self.model.double()

    @staticmethod
    def _answer(changes: Float[Tensor, "draws n"], seed: int) -> Answer:
        means = changes.mean(1)
        low, high = ends_of_interval(resampled_means(changes.T, seed=seed).abs().mean(1))
        values = (changes * means.sign()[:, None]).mean(0)
        return Answer(float(means.abs().mean()), low, high, values)


@torch.no_grad()
def completeness(
    bound: BoundAblation,
    circuit: Circuit,
    prompts: Prompts,
    *,
    share: float = 0.5,
    draws: int = 8,
    seed: int = 0,
    batch_size: int = BATCH_SIZE,
) -> CompletenessResult:
    """Remove the same random nodes of the circuit from the circuit and from the whole model.

    The completeness of Wang et al. 2022 (2211.00593, section 4): |F(C without K) - F(M without
    K)| with F the mean logit difference is small for every subset K of a complete circuit. Where
    the model has other nodes that stand in for K, it is large.

    A node goes from an edge circuit, and from the model beside it, with all its edges. Neither the
    embedding and the logits of a component graph are removed, nor nodes of an edge circuit that no
    edge can touch.

    Args:
        share: probability with which each node of the circuit is removed.
        draws: of K.
        seed: of the draws.

    Raises:
        ValueError: for a share outside (0, 1].
    """
    removable, whole = removable_nodes(circuit), whole_like(circuit)
    subsets = random_subsets(len(removable), share=share, draws=draws, seed=seed)
    prompts = prompts.to(bound.device)

    def differences(candidate: Circuit) -> Float[Tensor, " n"]:
        logits = circuit_logits(bound, candidate, prompts, batch_size=batch_size)
        return logit_difference(logits, prompts)

    removed, of_circuit, of_model = [], [], []
    for subset in subsets:
        nodes = removable & subset
        removed.append(tuple(node_names(circuit.graph, nodes)))
        of_circuit.append(differences(without_nodes(circuit, nodes)))
        of_model.append(differences(without_nodes(whole, nodes)))
    return CompletenessResult(tuple(removed), torch.stack(of_circuit), torch.stack(of_model))
