"""Minimality: how many nodes of a circuit could each be spared."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from sparse_lens.circuit import Circuit
from sparse_lens.evals.answers import Answer
from sparse_lens.evals.draws import check_count
from sparse_lens.evals.intervals import Estimate, ends_of_interval, resampled_means
from sparse_lens.evals.question import MINIMAL_AND_COMPLETE, Answers, Column, Question, Subject
from sparse_lens.objectives import TaskLoss
from sparse_lens.parts import node_names, removable_nodes, without_nodes
from sparse_lens.patching import BoundAblation, Kept, circuit_runs
from sparse_lens.task import Prompts

DISPENSABLE_BELOW = 0.01
"""Nats: a node whose removal raises the task loss by less does not hurt."""


@dataclass(frozen=True)
class Minimality(Question):
    """The share of a circuit's nodes whose removal alone does not raise the task loss.

    See :func:`minimality`.
    """

    nodes: int = 32
    """Nodes of the circuit that are removed, each alone; drawn at random where it has more."""

    dispensable_below: float = DISPENSABLE_BELOW
    """Nats: a node whose removal raises the task loss by less does not hurt."""

    def __post_init__(self) -> None:
        check_count("nodes", self.nodes)

    def ask(self, subject: Subject) -> Answers:
        """How many nodes were removed, and the share of them that is dispensable."""
        result = minimality(
            subject.bound,
            subject.circuit,
            subject.prompts,
            dispensable_below=self.dispensable_below,
            max_nodes=self.nodes,
            circuit_loss=subject.metrics.task_loss,
            seed=subject.seed,
        )
        n_removed = len(result.nodes)
        share = len(result.dispensable) / n_removed if n_removed else None
        return {"removed_nodes": n_removed, "dispensable_share": share}

    @property
    def columns(self) -> tuple[Column, ...]:
        """The share of dispensable nodes."""
        return (
            Column(
                answer="dispensable_share",
                heading="spare",
                title="share of nodes whose removal alone does not hurt",
                group=MINIMAL_AND_COMPLETE,
                meaning=(
                    "Of the circuit's nodes (some of them, drawn at random, in a large one), the "
                    "share whose removal alone raises the two-way loss by less than "
                    f"{self.dispensable_below} nats: 0% in a minimal circuit."
                ),
                form=".0%",
            ),
        )


@dataclass(frozen=True, eq=False)
class MinimalityResult:
    """How the task loss changes as each node alone is removed from a circuit."""

    nodes: tuple[str, ...]
    """Names of the nodes that were removed, in forward order."""

    changes: Float[Tensor, "nodes n"]
    """Task loss without the node minus that of the circuit, in nats."""

    dispensable_below: float
    """A node whose mean change is smaller is dispensable."""

    @property
    def means(self) -> Float[Tensor, " nodes"]:
        """Each node's mean change over the examples."""
        return self.changes.double().mean(1)

    @property
    def dispensable(self) -> tuple[str, ...]:
        """Names of the nodes whose removal alone does not hurt."""
        hurts = (self.means >= self.dispensable_below).tolist()
        return tuple(name for name, hurt in zip(self.nodes, hurts, strict=True) if not hurt)

    def change(self, node: str, *, seed: int = 0) -> Answer:
        """What removing one node does.

        Args:
            seed: of the bootstrap.
        """
        if node not in self.nodes:
            raise ValueError(
                f"{node!r} is not among the {len(self.nodes)} nodes that were removed."
            )
        return Answer.of(self.changes[self.nodes.index(node)], seed=seed)

    def share(self, *, seed: int = 0) -> Estimate | None:
        """The share of the nodes that are dispensable: 0 for a minimal circuit; None of no nodes.

        Args:
            seed: of the bootstrap, which draws examples.
        """
        if not self.nodes:
            return None
        shares = (resampled_means(self.changes.T, seed=seed) < self.dispensable_below).double()
        return Estimate(len(self.dispensable) / len(self.nodes), *ends_of_interval(shares.mean(1)))


@torch.no_grad()
def minimality(
    bound: BoundAblation,
    circuit: Circuit,
    prompts: Prompts,
    *,
    dispensable_below: float = DISPENSABLE_BELOW,
    max_nodes: int | None = None,
    circuit_loss: Float[Tensor, " n"] | None = None,
    seed: int = 0,
) -> MinimalityResult:
    """Remove each node of a circuit by itself and see whether the task loss rises.

    The minimality of Wang et al. 2022 (2211.00593, section 4) with nothing else removed: they
    look for a set of other nodes whose removal brings out what a node does, so that one which
    another node can replace counts as needed there and as dispensable here.

    A node goes from an edge circuit with all its edges. Neither the embedding and the logits of a
    component graph are removed, nor nodes of an edge circuit that no edge can touch.

    Args:
        dispensable_below: in nats; a node whose removal raises the loss by less does not hurt.
        max_nodes: how many are removed; drawn at random where the circuit has more. None for all.
        circuit_loss: task loss of the whole circuit on these prompts, from `measure`, where it is
            at hand.
        seed: of that draw.
    """
    prompts = prompts.to(bound.device)
    nodes = removable_nodes(circuit).nonzero().flatten()
    if max_nodes is not None and len(nodes) > max_nodes:
        generator = torch.Generator().manual_seed(seed)
        nodes = nodes[torch.randperm(len(nodes), generator=generator)[:max_nodes].sort().values]

    runs, whole = circuit_runs(bound, prompts), Kept.of(circuit)
    runs.rebase(whole)

    def task_loss(kept: Kept) -> Float[Tensor, " n"]:
        return TaskLoss()(runs.logits(kept), prompts)

    if circuit_loss is None:
        circuit_loss = task_loss(whole)
    changes = circuit_loss.new_empty(len(nodes), len(prompts))
    names: list[str] = []
    for row, node in enumerate(nodes.tolist()):
        removed = torch.arange(circuit.graph.n_nodes) == node
        names += node_names(circuit.graph, removed)
        changes[row] = task_loss(Kept.of(without_nodes(circuit, removed))) - circuit_loss
    return MinimalityResult(tuple(names), changes, dispensable_below)
