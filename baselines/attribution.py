"""Attribution patching: estimates of what cutting an edge or ablating a node does."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

from torch import Tensor

from sparse_lens.cost import CostMeter
from sparse_lens.graphs.base import Graph
from sparse_lens.graphs.component import ComponentGraph
from sparse_lens.objectives import Objective, TaskLoss
from sparse_lens.patching import (
    BoundAblation,
    GradientPoints,
    edge_effects,
    exact_edge_effects,
    exact_node_effects,
    has_hooks_of_others,
    node_effects,
)
from sparse_lens.ranking_method import Ranking, RankingMethod
from sparse_lens.scores import Scores
from sparse_lens.task import Prompts, Task

Estimator = Literal["eap", "eap-ig-inputs", "eap-ig-activations", "clean-corrupted", "exact"]
Selection = Literal["absolute", "signed", "greedy"]
Rule = Literal["left", "midpoint", "right"]

_OFFSETS: dict[str, float] = {"left": 0.0, "midpoint": 0.5, "right": 1.0}


@dataclass(frozen=True)
class AttributionPatching(RankingMethod):
    """Edge attribution patching (Syed et al. 2310.10348), its relatives, and node attribution.

    A score estimates the change of the objective when the edge or node is cut, as a mean over
    prompts. All estimators but the exact one sum over positions and channels
    (ablated - live value) * gradient, and differ in where the gradient is taken:

    - `eap`: in the full model's run. Two forward passes and one backward pass per batch.
    - `eap-ig-inputs` (Hanna et al. 2403.17806): the mean over `ig_steps` runs between ablated and
      live input embeddings. The scores of the embedding's edges then add up to the effect of
      ablating it. On a channel graph, where the embedding is no node, the path starts at the
      embeddings of the ablation's own tokens, or of the corrupted prompts if it has none.
    - `eap-ig-activations` (ibid.): for the edges that leave a site (the embedding, a layer's heads,
      an MLP; a site of a channel graph), the mean over `ig_steps` runs in which this site alone has
      values between ablated and live ones. The scores of a site's outgoing edges add up to the
      effect of ablating it.
    - `clean-corrupted`: the mean over the two ends of the path of `eap-ig-inputs`.
    - `exact`: each edge or node is cut in a run of its own; a pass makes as many of these runs as
      its batch size allows.

    On a component graph edges are scored (with `nodes=True` nodes); on a channel graph nodes (with
    `edges=True` edges, which are its nonzero weights: weight attribution).
    """

    objective: Objective = TaskLoss()

    nodes: bool = False
    """Score the nodes of a component graph instead of its edges: by the sum over a writer's
    outgoing edges, or, with the exact estimator, by ablating it. Embedding and logits are always
    kept."""

    batch_size: int = 64
    """Prompts per pass, counting each copy where several runs share a pass; the scores do not
    depend on it."""

    edges: bool = False
    """Score the edges of a channel graph instead of its nodes."""

    estimator: Estimator = "eap"

    ig_steps: int = 5
    """Runs of the model on a path of integrated gradients."""

    ig_rule: Rule = "left"
    """Where on the path, from ablated (0) to live (1), step k = 0 .. m-1 of m is: k/m (that of
    EAP-IG's program), (k + 1/2)/m, or (k + 1)/m."""

    selection: Selection = "absolute"
    """How edges are selected by their scores: those farthest from zero; the largest; or, one after
    the other, the one farthest from zero of those that enter the circuit so far, which starts at
    the output."""

    relp: bool = False
    """Take gradients by the rules of RelP (2508.21258): constant norm scales, the identity-rule for
    activation functions, the half-rule for gates."""

    def __post_init__(self) -> None:
        for name, options in (
            ("estimator", Estimator),
            ("selection", Selection),
            ("ig_rule", Rule),
        ):
            if getattr(self, name) not in get_args(options):
                raise ValueError(
                    f"{name} must be one of {', '.join(map(repr, get_args(options)))}, "
                    f"got {getattr(self, name)!r}."
                )
        for name in ("batch_size", "ig_steps"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}.")
        if self.nodes and self.edges:
            raise ValueError(
                "AttributionPatching scores nodes or edges; got nodes=True, edges=True."
            )
        if self.relp and self.estimator == "exact":
            raise ValueError("relp=True changes gradients, and the exact estimator takes none.")

    @property
    def is_deterministic(self) -> bool:
        """Always: nothing is drawn."""
        return True

    def check(self, graph: Graph, task: Task) -> None:
        """Refuse greedy selection where nodes are scored; warn of an objective without slope.

        Raises:
            ValueError: for `selection="greedy"` with node scores.
        """
        if self.selection == "greedy" and not self._scores_edges(graph):
            remedy = "drop nodes=True" if self.nodes else "pass edges=True"
            raise ValueError(f"selection 'greedy' chooses edges, but nodes are scored: {remedy}.")
        if self.estimator == "eap" and self.objective.least_at_full_model:
            warnings.warn(
                f"{type(self.objective).__name__} has no slope at the full model, where 'eap' "
                "takes its gradient: all scores are noise. Take another objective, or another "
                "estimator such as 'eap-ig-inputs'.",
                stacklevel=3,
            )

    def rank(self, bound: BoundAblation, task: Task, *, seed: int, meter: CostMeter) -> Ranking:
        """Estimate the effect of every edge or node."""
        graph = bound.graph
        effects = self._effects(bound, task.train.to(bound.device), meter)
        absolute = self.selection != "signed"
        if not self._scores_edges(graph):
            return Ranking(Scores.of_nodes(graph, effects, absolute=absolute))
        greedy = self.selection == "greedy"
        return Ranking(Scores(graph, edges=effects, absolute=absolute, greedy=greedy))

    def _scores_edges(self, graph: Graph) -> bool:
        return not self.nodes if isinstance(graph, ComponentGraph) else self.edges

    def _effects(
        self, bound: BoundAblation, prompts: Prompts, meter: CostMeter
    ) -> dict[str, Tensor]:
        """By block or site: means over prompts."""
        totals: dict[str, Tensor] = {}
        for batch, batch_bound in bound.batches(prompts, self.batch_size):
            for name, effect in self._batch_effects(batch_bound, batch, meter).items():
                totals[name] = totals[name] + effect if name in totals else effect
        return {name: total / len(prompts) for name, total in totals.items()}

    def _batch_effects(
        self, bound: BoundAblation, batch: Prompts, meter: CostMeter
    ) -> Mapping[str, Tensor]:
        """By block or site: sums over the prompts of a batch."""
        edges = self._scores_edges(bound.graph)
        if self.estimator == "exact":
            exact = exact_edge_effects if edges else exact_node_effects
            return exact(bound, batch, self.objective, rows=self.batch_size)
        points = self._points()
        copies = 1  # a hook that is not ours may depend on a prompt's row in the batch
        if not has_hooks_of_others(bound.model):
            copies = max(1, self.batch_size // len(batch))
        n_runs = points.n_runs(bound.graph, edges=edges)
        meter.backward_passes += n_runs
        # Cost is in runs: add those that the meter misses, since it counts a shared pass once.
        meter.forward_passes += n_runs - points.n_passes(bound.graph, edges=edges, copies=copies)
        estimate = edge_effects if edges else node_effects
        return estimate(bound, batch, self.objective, points=points, relp=self.relp, copies=copies)

    def _points(self) -> GradientPoints:
        """The runs in which gradients are taken."""
        if self.estimator == "eap":
            return GradientPoints()
        if self.estimator == "clean-corrupted":
            return GradientPoints((1.0, 0.0))
        offset, m = _OFFSETS[self.ig_rule], self.ig_steps
        shares = tuple((k + offset) / m for k in range(m))
        return GradientPoints(shares, site_by_site=self.estimator == "eap-ig-activations")
