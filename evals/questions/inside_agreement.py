"""Inside agreement: whether a circuit's nodes have the values that they have in the model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from sparse_lens.circuit import Circuit
from sparse_lens.evals.draws import Draws
from sparse_lens.evals.growing_interchange import growing_interchange
from sparse_lens.evals.question import FAITHFULNESS, ROBUSTNESS, Answers, Column, Question, Subject
from sparse_lens.evals.questions.kl_over_positions import real_positions
from sparse_lens.graphs import ChannelGraph, ComponentGraph, Graph
from sparse_lens.graphs.component import EDGES
from sparse_lens.models.anatomy import anatomy_of
from sparse_lens.patching import BoundAblation, Values, acting_rows, circuit_activations
from sparse_lens.task import Prompts

VALUES_BATCH_SIZE = 32
"""Prompts a pass where the values of all nodes are held in memory."""

CONSTANT = 1e-10
"""A node is constant where its variance is at most this share of its mean square."""


@dataclass(frozen=True)
class InsideAgreement(Question):
    """The circuit's values at its own nodes beside the model's, and the model's put in their place.

    See :func:`value_agreements` and
    :func:`sparse_lens.evals.growing_interchange.growing_interchange`.
    """

    def ask(self, subject: Subject) -> Answers:
        """Unexplained variance at the answer and at all positions; metrics of each interchange.

        Edge circuits have no interchange: their nodes carry their own value to some readers and an
        ablated one to others.
        """
        bound, circuit, prompts = subject.bound, subject.circuit, subject.prompts
        answers: dict[str, object] = {}
        where = {"answer": answer_positions(prompts), "all": real_positions(prompts)}
        for name, agreement in value_agreements(bound, circuit, prompts, where).items():
            answers |= {
                f"fvu_{name}": agreement.fvu,
                f"median_fvu_{name}": agreement.median_fvu,
                f"sites_{name}": agreement.by_site,
                f"constant_nodes_{name}": agreement.n_constant,
            }
        if circuit.is_node_circuit:
            steps = growing_interchange(bound, circuit, prompts, full_logits=subject.full_logits)
            draws = Draws((circuit,) * len(steps), tuple(step.metrics for step in steps))
            answers["interchanged_up_to"] = [step.up_to for step in steps]
            answers |= {f"interchanged_{name}": means for name, means in draws.means().items()}
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
                    "above 1 for worse than that. Nodes that read the embedding alone cannot "
                    "differ, and are left out."
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
    """Of the circuit's nodes, numbered over the whole graph; the sums of all others are 0."""

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
def value_agreements(
    bound: BoundAblation,
    circuit: Circuit,
    prompts: Prompts,
    where: Mapping[str, Bool[Tensor, "n pos"]],
    *,
    batch_size: int = VALUES_BATCH_SIZE,
) -> dict[str, ValueAgreement]:
    """Compare the values of a circuit's nodes with those of the same nodes in the full model.

    Compared are the nodes of the circuit that can differ: not those that read embeddings alone (of
    a channel graph `blocks.0.attn_in` and channels of position embeddings), which are as in the
    model in any circuit; nor, on a component graph, those that lead to no output, which are not
    computed.

    The mean and the variance of a node are those of its values in the full model over all tokens
    that count. A node is constant, and left out of all fractions, where this variance is at most
    1e-10 of the mean square of its values.

    Args:
        where: sets of tokens that count, by name. At the :func:`answer_positions` there is what the
            answer is read from; what heads move there is computed at others, so that all tokens,
            :func:`real_positions`, say more of keys and values.
    """
    prompts, whole = prompts.to(bound.device), Circuit.full(bound.graph)
    compared = computed_nodes(bound, circuit) & ~_read_embedding_alone(bound)
    sums = {name: _Sums(bound.graph, compared, counts) for name, counts in where.items()}
    start = 0
    for batch, its_ablation in bound.batches(prompts, batch_size):
        in_model = circuit_activations(its_ablation, whole, batch)
        own = circuit_activations(its_ablation, circuit, batch)
        for each in sums.values():
            each.add(in_model, own, slice(start, start + len(batch)))
        start += len(batch)
    return {name: each.agreement() for name, each in sums.items()}


class _Sums:
    """Sums of errors, values and squares over the tokens so far, in float64 on the CPU."""

    def __init__(
        self, graph: Graph, compared: Bool[Tensor, " nodes"], where: Bool[Tensor, "n pos"]
    ) -> None:
        self._graph, self._compared, self._where = graph, compared, where
        self._kept = graph.unflatten(compared)
        self._error, self._square = torch.zeros(2, graph.n_nodes, dtype=torch.float64)
        self._total: dict[str, Float[Tensor, "kept d"]] = {}

    def add(self, in_model: Values, own: Values, rows: slice) -> None:
        """The values by site of some rows of the prompts."""
        for name in in_model:
            x, y = (self._samples(values[name], name, rows) for values in (in_model, own))
            nodes, kept = self._graph.node_slices[name], self._kept[name]
            self._error[nodes][kept] += (y - x).square().sum((1, 2))
            self._square[nodes][kept] += x.square().sum((1, 2))
            self._total[name] = self._total.get(name, 0) + x.sum(1)

    def agreement(self) -> ValueAgreement:
        """Of all that was added."""
        count, variance = int(self._where.count_nonzero()), self._square.clone()
        for name, total in self._total.items():
            of_site = variance[self._graph.node_slices[name]]  # a view
            of_site[self._kept[name]] -= total.square().sum(1) / count
        varies = self._compared & (variance > CONSTANT * self._square)
        return ValueAgreement(self._graph, self._compared, self._error, variance, varies)

    def _samples(
        self, values: Float[Tensor, "..."], site: str, rows: slice
    ) -> Float[Tensor, "kept samples d"]:
        """The values of a site's compared nodes at the tokens that count."""
        kept, where = (mask.to(values.device) for mask in (self._kept[site], self._where[rows]))
        if isinstance(self._graph, ComponentGraph):
            at_tokens = values[kept][:, where]  # [kept, samples, d_model]
        else:
            at_tokens = values[where][:, kept].T[..., None]  # [kept, samples, 1]
        return at_tokens.cpu().double()


def _read_embedding_alone(bound: BoundAblation) -> Bool[Tensor, " nodes"]:
    """Nodes that are as in the model in any circuit."""
    graph, abs_topk = bound.graph, anatomy_of(bound.model).abs_topk
    nodes = torch.zeros(graph.n_nodes, dtype=torch.bool)
    for name, site in graph.sites.items():
        at_site = nodes[graph.node_slices[name]]  # a view
        if isinstance(graph, ChannelGraph) and site.role in ("attn_in", "mlp_in"):
            # Position embeddings that are concatenated, and compete with no other channels.
            at_site[graph.d_model :] = site.role not in abs_topk
            at_site |= site.layer == 0 and (site.role == "attn_in" or graph.parallel)
        at_site |= name == "embed"
    return nodes


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
