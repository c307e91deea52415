"""Weights ablated: whether a circuit needs its own weights, or only weights of their size."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from sparse_lens.circuit import Circuit
from sparse_lens.evals.draws import Draws, check_count, generator_of
from sparse_lens.evals.metrics import measure, with_full_logits
from sparse_lens.evals.question import CONTROLS, Answers, Column, Question, Subject
from sparse_lens.graphs import ChannelGraph
from sparse_lens.graphs.reweighting import reweighted
from sparse_lens.patching import BATCH_SIZE, BoundAblation
from sparse_lens.task import Prompts


@dataclass(frozen=True)
class WeightsAblated(Question):
    """The circuit with its own weights exchanged for others of equal size.

    See :func:`weights_ablated`. Circuits of a component graph, whose edges are no weights, are not
    asked.
    """

    draws: int = 4
    """Of other weights."""

    def __post_init__(self) -> None:
        check_count("draws", self.draws)

    def ask(self, subject: Subject) -> Answers:
        """The metrics of each draw."""
        if not isinstance(subject.circuit.graph, ChannelGraph):
            return {}
        return weights_ablated(
            subject.bound,
            subject.circuit,
            subject.prompts,
            draws=self.draws,
            seed=subject.seed,
            full_logits=subject.full_logits,
        ).means()

    @property
    def columns(self) -> tuple[Column, ...]:
        """The task loss, its mean over draws and that of the draw that breaks least."""
        return (
            Column(
                answer="task_loss",
                heading="other weights",
                title="two-way loss with the circuit's weights exchanged for others of equal size, "
                "mean over draws",
                group=CONTROLS,
                meaning=(
                    "The sizes of the circuit's weights are dealt out anew among the circuit's "
                    "edges in each matrix, with random signs, and all else stays. It should break: "
                    "where a draw still meets the target, what was found is not in the weights."
                ),
            ),
            Column(
                answer="task_loss",
                heading="least",
                title="the same, of the draw with the least loss",
                group=CONTROLS,
                over_draws="min",
            ),
        )


def weights_ablated(
    bound: BoundAblation,
    circuit: Circuit,
    prompts: Prompts,
    *,
    draws: int = 4,
    seed: int = 0,
    full_logits: Float[Tensor, "n vocab"] | None = None,
    batch_size: int = BATCH_SIZE,
) -> Draws:
    """A circuit of a channel graph whose own weights are others of equal size.

    In each matrix the absolute values of the kept edges' weights are permuted among these edges,
    and every sign is drawn anew. Other weights, and what is ablated, are as they were; so is the
    model afterwards.

    Args:
        draws: of other weights.
        seed: of the draws.
        full_logits: the unchanged model's, from `model_logits`, where they are at hand.

    Raises:
        ValueError: on a component graph, or for no draws.
    """
    graph = circuit.graph
    if not isinstance(graph, ChannelGraph):
        raise ValueError(
            f"edges of {graph} are no weights: pass a circuit of a channel graph, from "
            "ChannelGraph.from_model."
        )
    generator = generator_of(seed, draws)
    prompts, full_logits = with_full_logits(bound, prompts, full_logits, batch_size)
    metrics = []
    for _ in range(draws):
        with reweighted(bound.model, graph, _factors(bound, circuit, graph, generator)):
            metrics.append(
                measure(bound, circuit, prompts, full_logits=full_logits, batch_size=batch_size)
            )
    return Draws((circuit,) * draws, tuple(metrics))


def _factors(
    bound: BoundAblation, circuit: Circuit, graph: ChannelGraph, generator: torch.Generator
) -> Mapping[str, Float[Tensor, "dst src"]]:
    """By block: other weights of the kept edges over their own; 1 elsewhere."""
    factors = {}
    for name, weight in graph.edge_weights(bound.model).items():
        kept = circuit.edge_mask(name)
        own = weight.detach().float().cpu()[kept]
        order = torch.randperm(len(own), generator=generator)
        signs = torch.randint(2, (len(own),), generator=generator) * 2 - 1
        factor = torch.ones(kept.shape)
        factor[kept] = signs * own.abs()[order] / own
        factors[name] = factor
    return factors
