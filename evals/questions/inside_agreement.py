"""Inside agreement: whether a circuit's nodes have the values that they have in the model."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from sparse_lens.circuit import Circuit
from sparse_lens.evals.growing_interchange import growing_interchange
from sparse_lens.evals.question import FAITHFULNESS, ROBUSTNESS, Answers, Column, Question, Subject
from sparse_lens.evals.questions.kl_over_positions import real_positions
from sparse_lens.graphs import ComponentGraph, Graph
from sparse_lens.graphs.component import EDGES
from sparse_lens.patching import BoundAblation, acting_rows, circuit_activations
from sparse_lens.task import Prompts

VALUES_BATCH_SIZE = 32
"""Prompts a pass where the values of all nodes are held in memory."""

CONSTANT = 1e-10
"""A node is constant where its variance is at most this share of its mean square."""


@dataclass(frozen=True)
class InsideAgreement(Question):
    """The circuit's values at its own nodes beside the model's, and the model's put in their place.

    See :func:`value_agreement` and
    :func:`sparse_lens.evals.growing_interchange.growing_interchange`.
    """

    def ask(self, subject: Subject) -> Answers:
        """Unexplained variance at the answer and at all positions; metrics of each interchange.

        Edge circuits have no interchange: their nodes carry their own value to some readers and an
        ablated one to others.
        """
        bound, circuit, prompts = subject.bound, subject.circuit, subject.prompts
        answers: dict[str, object] = {}
        for name, where in (("answer", answer_positions(prompts)), ("all", None)):
            agreement = value_agreement(bound, circuit, prompts, where=where)
            answers |= {
                f"fvu_{name}": agreement.fvu,
                f"median_fvu_{name}": agreement.median_fvu,
                f"sites_{name}": agreement.by_site,
                f"constant_nodes_{name}": agreement.n_constant,
            }
        if circuit.is_node_circuit:
            steps = growing_interchange(bound, circuit, prompts, full_logits=subject.full_logits)
            means = [step.metrics.means() for step in steps]
            answers["interchanged_up_to"] = [step.up_to for step in steps]
            answers |= {f"interchanged_{name}": [m[name] for m in means] for name in means[0]}
        return answers

    @property
    def columns(self) -> tuple[Column, ...]:
        """The unexplained variance at the answer and at all positions; the worst interchange."""
        return (
            Column(
                answer="fvu_answer",
                heading="FVU",
                title="variance of the model's values at the circuit's nodes that the circuit's "
                "own values miss, at the answer position",
                group=FAITHFULNESS,
                meaning=(
                    "How far the circuit's own values at its nodes are from the model's there, "
                    "over the variance of the model's between held-out prompts: 0 where the inside "
                    "of the circuit is the model's, 1 for nodes that carry nothing but their mean, "
                    "above 1 for worse than that."
                ),
                form=".2f",
            ),
            Column(
                answer="fvu_all",
                heading="everywhere",
                title="the same over all positions of the prompts",
                group=FAITHFULNESS,
                form=".2f",
            ),
            Column(
                answer="interchanged_task_loss",
                heading="interchanged",
                title="two-way loss with growing parts of the circuit set to the model's values, "
                "worst part",
                group=ROBUSTNESS,
                over_draws="max",
                target_words="with growing parts of them set to the model's own values",
                meaning=(
                    "The nodes of the circuit up to some layer carry their values in the full "
                    "model, layer after layer: where the inside of the circuit is the model's, "
                    "this changes little; a circuit that computes its answer in its own way loses."
                ),
            ),
        )


@dataclass(frozen=True, eq=False)
class ValueAgreement:
    """How far a circuit's nodes are from what they are in the full model, in a vector of sums."""

    graph: Graph

    compared: Bool[Tensor, " nodes"]
    """Of the circuit's nodes, numbered over the whole graph. Elsewhere the sums are 0."""

    error: Float[Tensor, " nodes"]
    """Sum of (circuit's value - model's value)^2, of a component graph also over d_model."""

    variance: Float[Tensor, " nodes"]
    """Sum of (model's value - its mean)^2."""

    varies: Bool[Tensor, " nodes"]
    """The compared nodes that are not constant in the model. All others count in no fraction."""

    @property
    def fvu(self) -> float | None:
        """Fraction of variance unexplained: the summed errors over the summed variances.

        Both are summed over all nodes that vary in the model; None where there are none.
        """
        return self._ratio(self.varies)

    @property
    def by_site(self) -> dict[str, float]:
        """The same of each site that has a kept node that varies."""
        fractions = {}
        for name, nodes in self.graph.node_slices.items():
            at_site = torch.zeros_like(self.varies)
            at_site[nodes] = self.varies[nodes]
            fraction = self._ratio(at_site)
            if fraction is not None:
                fractions[name] = fraction
        return fractions

    @property
    def median_fvu(self) -> float | None:
        """The median over the nodes that vary of their own fractions, in which scale is nothing."""
        if not self.varies.any():
            return None
        return float((self.error / self.variance)[self.varies].median())

    @property
    def n_constant(self) -> int:
        """Compared nodes that are constant in the model."""
        return int((self.compared & ~self.varies).count_nonzero())

    def _ratio(self, nodes: Bool[Tensor, " nodes"]) -> float | None:
        if not nodes.any():
            return None
        return float(self.error[nodes].sum() / self.variance[nodes].sum())


@torch.no_grad()
def value_agreement(
    bound: BoundAblation,
    circuit: Circuit,
    prompts: Prompts,
    *,
    where: Bool[Tensor, "n pos"] | None = None,
    batch_size: int = VALUES_BATCH_SIZE,
) -> ValueAgreement:
    """Compare the values of a circuit's nodes with those of the same nodes in the full model.

    The mean and the variance of a node are those of its values in the full model over all tokens
    that count. A node is constant, and left out of all fractions, where this variance is at most
    1e-10 of the mean square of its values. On a component graph those nodes of the circuit are
    compared that lead to its output: what the others would be is not computed.

    Args:
        where: tokens that count; all that are not padding if not given. At the answer positions
            (:func:`answer_positions`) there is what the answer is read from; what a head moves
            there was computed at others, so that all of them say more of queries, keys and values.
    """
    prompts, graph = prompts.to(bound.device), bound.graph
    where = real_positions(prompts) if where is None else where.to(prompts.clean.device)
    whole, compared = Circuit.full(graph), computed_nodes(bound, circuit)
    kept = graph.unflatten(compared)
    error, square = torch.zeros(2, graph.n_nodes, dtype=torch.float64)
    totals: dict[str, Tensor] = {}
    start = 0
    for batch, batch_bound in bound.batches(prompts, batch_size):
        counts = where[start : start + len(batch)]
        start += len(batch)
        own = circuit_activations(batch_bound, circuit, batch)
        for name, in_model in circuit_activations(batch_bound, whole, batch).items():
            mask, nodes = kept[name], graph.node_slices[name]
            x, y = (_samples(graph, values, mask, counts) for values in (in_model, own[name]))
            error[nodes][mask] += (y - x).square().sum((1, 2))
            square[nodes][mask] += x.square().sum((1, 2))
            totals[name] = totals.get(name, 0) + x.sum(1)  # [kept, d]
    variance = square.clone()
    for name, total in totals.items():
        of_site = variance[graph.node_slices[name]]  # a view
        of_site[kept[name]] -= total.square().sum(1) / where.count_nonzero().cpu()
    varies = compared & (variance > CONSTANT * square)
    return ValueAgreement(graph, compared, error, variance, varies)


def computed_nodes(bound: BoundAblation, circuit: Circuit) -> Bool[Tensor, " nodes"]:
    """The circuit's nodes whose values a run of it computes.

    On a component graph those that lead to its output; the logits have no value.
    """
    kept = circuit.graph.flatten(circuit.node_masks)
    if not isinstance(circuit.graph, ComponentGraph):
        return kept
    acting = acting_rows(bound.model, circuit)[EDGES]  # [readers]
    read = circuit.edge_mask(EDGES)[acting].any(0)  # [writers]
    return kept & torch.cat([read, read.new_zeros(1)])  # the last node is the logits


def answer_positions(prompts: Prompts) -> Bool[Tensor, "n pos"]:
    """True at the position of each prompt whose logits predict the answer."""
    where = torch.zeros_like(prompts.clean, dtype=torch.bool)
    return where.scatter(1, prompts.answer_positions[:, None].to(where.device), True)


def _samples(
    graph: Graph,
    values: Float[Tensor, "..."],
    kept: Bool[Tensor, " width"],
    where: Bool[Tensor, "n pos"],
) -> Float[Tensor, "kept samples d"]:
    """The values of a site's kept nodes at the tokens that count, in float64 on the CPU."""
    kept = kept.to(values.device)
    if isinstance(graph, ComponentGraph):
        at_tokens = values[kept][:, where]  # [kept, samples, d_model]
    else:
        at_tokens = values[where][:, kept].T[..., None]  # [kept, samples, 1]
    return at_tokens.cpu().double()
