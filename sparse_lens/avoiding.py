"""A method that must do without some nodes."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from transformer_lens import HookedTransformer

from sparse_lens.ablation import Ablation
from sparse_lens.circuit import Circuit
from sparse_lens.cost import CostMeter
from sparse_lens.discovery import Discovery
from sparse_lens.graphs.base import Graph
from sparse_lens.objectives import Objective
from sparse_lens.patching import AlwaysAblated, BoundAblation, bind
from sparse_lens.ranking_method import Ranking, RankingMethod
from sparse_lens.scores import Scores
from sparse_lens.search import ChosenCircuit
from sparse_lens.task import Task


@dataclass(frozen=True)
class Avoiding(RankingMethod):
    """Another method's circuit among those without some nodes, which it never finds alive.

    While gates are learned, and in every circuit that is tried, these nodes are ablated; they rank
    last, and are in no circuit that meets a target. Attribution scores the other nodes as it always
    does, by gradients in the full model.
    """

    objective: Objective | None = None  # type: ignore[assignment]
    """The loss that the method works on; None for its own."""

    method: RankingMethod = field(kw_only=True)
    """One that scores nodes."""

    nodes: tuple[str, ...] = field(kw_only=True)
    """Names of the nodes to do without."""

    @property
    def is_deterministic(self) -> bool:
        """Whether the method is."""
        return self.method.is_deterministic

    def check(self, graph: Graph, task: Task) -> None:
        """Refuse what the method refuses, and to do without the ends of a component graph.

        Raises:
            ValueError: for names of no nodes, or of nodes at fixed sites.
        """
        self._method.check(graph, task)
        for name in self.nodes:
            if graph.parse_node(name)[0] in graph.fixed_sites:
                raise ValueError(f"no circuit can do without {name!r}: leave it out of nodes=.")

    def discover(
        self,
        model: HookedTransformer,
        graph: Graph,
        task: Task,
        *,
        ablation: Ablation | BoundAblation,
        seed: int = 0,
    ) -> Discovery:
        """As the method, with the nodes ablated.

        Raises:
            ValueError: for what the method refuses, one that scores edges, or unknown nodes.
        """
        never = graph.flatten(self._forbidden(graph).node_masks)
        bound = AlwaysAblated(model, graph, bind(model, graph, ablation), never)
        return super().discover(model, graph, task, ablation=bound, seed=seed)

    def rank(self, bound: BoundAblation, task: Task, *, seed: int, meter: CostMeter) -> Ranking:
        """The method's ranking, with the nodes last."""
        ranking, graph = self._method.rank(bound, task, seed=seed, meter=meter), bound.graph
        if ranking.scores.nodes is None:
            raise ValueError(
                f"nodes can be avoided where nodes are scored, and {type(self.method).__name__} "
                f"scored edges of {graph}: choose its option for nodes, such as "
                "AttributionPatching(nodes=True)."
            )
        never = graph.flatten(self._forbidden(graph).node_masks)
        importance = ranking.scores.importance.masked_fill(never, -float("inf"))
        scores = Scores(graph, nodes=graph.unflatten(importance), absolute=False)
        chosen = ranking.chosen
        return replace(ranking, scores=scores, chosen=chosen and self._without_nodes(chosen))

    def finish(
        self, bound: BoundAblation, chosen: ChosenCircuit, task: Task, meter: CostMeter
    ) -> ChosenCircuit:
        """What the method makes of it."""
        return self._method.finish(bound, chosen, task, meter)

    def _choose(
        self, bound: BoundAblation, scores: Scores, task: Task, meter: CostMeter
    ) -> ChosenCircuit:
        return self._without_nodes(self._method._choose(bound, scores, task, meter))

    def _without_nodes(self, chosen: ChosenCircuit) -> ChosenCircuit:
        """The same circuit as it ran: its loss was measured with the nodes ablated."""
        return replace(chosen, circuit=chosen.circuit - self._forbidden(chosen.circuit.graph))

    def _forbidden(self, graph: Graph) -> Circuit:
        return Circuit.from_node_names(graph, self.nodes)

    @property
    def _method(self) -> RankingMethod:
        """The method with the objective and the target that it is to have."""
        method = self.method.with_common(target=self.target)
        return method if self.objective is None else replace(method, objective=self.objective)
