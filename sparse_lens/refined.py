"""Any method, and afterwards the removal of what its circuit can do without."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
from transformer_lens import HookedTransformer

from sparse_lens.ablation import Ablation
from sparse_lens.baselines.attribution import AttributionPatching
from sparse_lens.choosing import choose
from sparse_lens.cost import metered
from sparse_lens.discovery import Discovery
from sparse_lens.graphs.base import Graph
from sparse_lens.method import Method, check_task
from sparse_lens.objectives import Objective
from sparse_lens.patching import BoundAblation, bind
from sparse_lens.ranking_method import discovery_of
from sparse_lens.refinement import refined
from sparse_lens.target import PAPER, Target
from sparse_lens.task import Task


@dataclass(frozen=True)
class Refined(Method):
    """The circuit of another method without the nodes, or edges, that it can do without.

    Nodes are removed one by one, those first without which the circuit loses least, while it meets
    the target on train and validation prompts: see :func:`sparse_lens.refinement.refined`. So
    methods are compared with and without it. Scores, history and warnings are those of the method.
    """

    objective: Objective | None = None  # type: ignore[assignment]
    """The loss that the method works on; None for its own."""

    method: Method = field(default_factory=AttributionPatching)

    target: Target = PAPER
    """What the method's circuit meets, and what is left of it."""

    n_passes: int = 3
    """How often, at most, nodes (and edges) are ranked and gone through."""

    edges: bool = False
    """Afterwards remove edges in the same way: the result is an edge circuit."""

    def __post_init__(self) -> None:
        if self.n_passes < 1:
            raise ValueError(f"n_passes must be at least 1, got {self.n_passes}.")

    @property
    def is_deterministic(self) -> bool:
        """Whether the method is: removal draws nothing."""
        return self.method.is_deterministic

    def discover(
        self,
        model: HookedTransformer,
        graph: Graph,
        task: Task,
        *,
        ablation: Ablation | BoundAblation,
        seed: int = 0,
    ) -> Discovery:
        """Run the method, then remove, at the cost of both.

        Raises:
            ValueError: when the task has no validation split, or for what the method refuses.
        """
        check_task(model, task)
        task.split("validation")
        with torch.enable_grad(), metered(model) as meter:
            bound = bind(model, graph, ablation)
            discovery = discovery_of(self._method, bound, task, seed=seed, meter=meter)
            chosen = choose(discovery, bound, task, target=self.target, meter=meter)
            chosen = refined(
                bound,
                chosen,
                task,
                target=self.target,
                n_passes=self.n_passes,
                edges=self.edges,
                meter=meter,
            )
            cost = meter.cost()
        return replace(discovery, method=self, chosen=chosen, cost=cost)

    @property
    def _method(self) -> Method:
        """The method with the objective and the target that it is to have."""
        method = self.method.with_common(target=self.target)
        return method if self.objective is None else replace(method, objective=self.objective)
