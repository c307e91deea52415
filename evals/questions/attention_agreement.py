"""Attention agreement: whether a circuit's heads attend to what they attend to in the model."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from transformer_lens import HookedTransformer

from sparse_lens.circuit import Circuit
from sparse_lens.evals.question import FAITHFULNESS, Answers, Column, Question, Subject
from sparse_lens.evals.questions.inside_agreement import computed_nodes
from sparse_lens.graphs import ChannelGraph
from sparse_lens.models.anatomy import anatomy_of
from sparse_lens.patching import BATCH_SIZE, BoundAblation, patched, suspended
from sparse_lens.task import Prompts


@dataclass(frozen=True)
class AttentionAgreement(Question):
    """The attention patterns of the circuit's heads beside those of the full model.

    See :func:`pattern_agreement`. A circuit without heads is not asked.
    """

    def ask(self, subject: Subject) -> Answers:
        """The names of the heads, and means over the prompts for each of them."""
        agreement = pattern_agreement(subject.bound, subject.circuit, subject.prompts)
        if not agreement.heads:
            return {}
        return {
            "heads": [f"a{layer}.h{head}" for layer, head in agreement.heads],
            "distance": agreement.distance.mean(1).tolist(),
            "uniform_distance": agreement.uniform_distance.mean(1).tolist(),
            "same_top": agreement.same_top.float().mean(1).tolist(),
        }

    @property
    def columns(self) -> tuple[Column, ...]:
        """The distance, that of uniform attention, and how often the top position is the same."""
        return (
            Column(
                answer="distance",
                heading="attention",
                title="distance of the circuit's attention patterns from the model's at the answer "
                "position, mean over its heads",
                group=FAITHFULNESS,
                meaning=(
                    "For each head of which the circuit has a part, the attention that would have "
                    "to move from one position to another to turn its pattern in the circuit into "
                    "that in the model: 0 where they are the same, 1 where they share no position. "
                    "Beside it the same of a head that attends to all positions alike, than which "
                    "a circuit should be much nearer, and the share of prompts on which the most "
                    "attended position is the same."
                ),
                form=".2f",
            ),
            Column(
                answer="uniform_distance",
                heading="if uniform",
                title="the same distance of uniform attention",
                group=FAITHFULNESS,
                form=".2f",
            ),
            Column(
                answer="same_top",
                heading="same top",
                title="share of prompts on which the most attended position is the model's",
                group=FAITHFULNESS,
                form=".0%",
            ),
        )


@dataclass(frozen=True, eq=False)
class PatternAgreement:
    """What a circuit's heads attend to at the answer position, beside the same heads in a model."""

    heads: tuple[tuple[int, int], ...]
    """Layer and head of each that was compared."""

    distance: Float[Tensor, "heads n"]
    """Total variation distance: half the sum of absolute differences."""

    uniform_distance: Float[Tensor, "heads n"]
    """That of a pattern which is the same at all positions up to the answer."""

    same_top: Bool[Tensor, "heads n"]
    """Whether the most attended position is the same; of equal ones the first counts."""


@torch.no_grad()
def pattern_agreement(
    bound: BoundAblation, circuit: Circuit, prompts: Prompts, *, batch_size: int = BATCH_SIZE
) -> PatternAgreement:
    """Compare attention patterns at the answer position in a circuit and in the full model.

    Compared are the heads of which the circuit keeps a channel of q, k or v; on a component graph
    the kept heads that lead to its output. An attention sink counts as one more position.
    """
    heads, prompts = _heads(bound, circuit), prompts.to(bound.device)
    distances, uniform_distances, same = [], [], []
    for batch, its_ablation in bound.batches(prompts, batch_size):
        circuit_runs = patched(bound.model, circuit, ablation=its_ablation, prompts=batch)
        own = _patterns(bound.model, heads, batch, circuit_runs)
        full = _patterns(bound.model, heads, batch, suspended(bound.model))
        distances.append(_distance(own, full))
        uniform_distances.append(_distance(_uniform(batch, full), full))
        same.append(own.argmax(-1) == full.argmax(-1))
    return PatternAgreement(
        heads, torch.cat(distances, 1), torch.cat(uniform_distances, 1), torch.cat(same, 1)
    )


def _heads(bound: BoundAblation, circuit: Circuit) -> tuple[tuple[int, int], ...]:
    graph = circuit.graph
    nodes = graph.unflatten(computed_nodes(bound, circuit))
    kept = torch.zeros(graph.n_layers, graph.n_heads, dtype=torch.bool)
    for name, site in graph.sites.items():
        if site.layer is None:
            continue
        if isinstance(graph, ChannelGraph) and site.per_head:
            kept[site.layer] |= nodes[name].unflatten(0, (graph.n_heads, graph.d_head)).any(1)
        elif site.role == "heads":
            kept[site.layer] = nodes[name]
    return tuple((layer, head) for layer, head in kept.nonzero().tolist())


def _patterns(
    model: HookedTransformer,
    heads: tuple[tuple[int, int], ...],
    batch: Prompts,
    context: AbstractContextManager[object],
) -> Float[Tensor, "heads n keys"]:
    """Patterns at the answer position, the last of the keys being what a sink takes."""
    names = {layer: anatomy_of(model).pattern(layer) for layer, _ in heads}
    with context:
        _, cache = model.run_with_cache(
            batch.clean, return_type=None, names_filter=list(names.values())
        )
    rows = torch.arange(len(batch), device=batch.clean.device)
    patterns = batch.clean.new_zeros(
        len(heads), len(batch), batch.clean.shape[1] + 1, dtype=torch.float32
    )
    for i, (layer, head) in enumerate(heads):
        pattern = cache[names[layer]][rows, head, batch.answer_positions]  # [n, keys]
        patterns[i, :, : pattern.shape[1]] = pattern
    patterns[..., -1] = 1 - patterns[..., :-1].sum(-1)
    return patterns


def _uniform(batch: Prompts, like: Float[Tensor, "heads n keys"]) -> Float[Tensor, "heads n keys"]:
    seen = torch.arange(like.shape[-1], device=like.device) <= batch.answer_positions[:, None]
    return (seen / seen.sum(1, keepdim=True)).expand_as(like)  # [heads, n, keys]


def _distance(
    first: Float[Tensor, "heads n keys"], second: Float[Tensor, "heads n keys"]
) -> Float[Tensor, "heads n"]:
    return (first - second).abs().sum(-1) / 2
