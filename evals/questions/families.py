"""Families: the circuits that a method finds for one task, and how many of them are disjoint."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations
from statistics import fmean

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from sparse_lens.avoiding import Avoiding
from sparse_lens.circuit import Circuit
from sparse_lens.evals.draws import check_count
from sparse_lens.evals.found_again import CircuitOf, chosen_circuit, chosen_for, found_again
from sparse_lens.evals.question import STABILITY, Answers, Column, Question, Subject
from sparse_lens.method import Method
from sparse_lens.parts import ends_of, node_names, parts_of
from sparse_lens.patching import BoundAblation
from sparse_lens.ranking_method import RankingMethod
from sparse_lens.task import Task


@dataclass(frozen=True)
class Families(Question):
    """What the method's circuits from other prompts and seeds share, and how many are disjoint.

    Asking takes up to `resamples + disjoint` more discoveries. See :func:`family` and
    :func:`disjoint_circuits`; only node circuits of a method that ranks nodes are exhausted.
    """

    resamples: int = 4
    """How often the method runs again on other draws of the prompts, each with another seed."""

    disjoint: int = 3
    """How many disjoint circuits to look for at most, beside the first; 0 to look for none."""

    def __post_init__(self) -> None:
        check_count("resamples", self.resamples)
        if self.disjoint < 0:
            raise ValueError(f"disjoint must be 0 or more, got {self.disjoint}.")

    def ask(self, subject: Subject) -> Answers:
        """Sizes of core, contingent part and noise; agreement of pairs; the disjoint circuits.

        Where fewer than two circuits met the target there is no family to describe.
        """
        circuit, circuit_of = subject.circuit, chosen_for(subject)
        circuits = family(
            subject.method,
            subject.bound,
            subject.task,
            circuit,
            resamples=self.resamples,
            circuit_of=circuit_of,
            seed=subject.seed,
        )
        answers: dict[str, object] = {"met_target": len(circuits.circuits) - 1}
        if len(circuits.circuits) > 1:
            answers |= {
                "core": int(circuits.core.count_nonzero()),
                "contingent": int(circuits.contingent.count_nonzero()),
                "noise": int(circuits.noise.count_nonzero()),
                "core_share": circuits.core_share,
                "ious": list(circuits.ious),
            }
        method = subject.method
        if self.disjoint and isinstance(method, RankingMethod) and circuit.is_node_circuit:
            ways = disjoint_circuits(
                method,
                subject.bound,
                subject.task,
                circuit,
                at_most=self.disjoint,
                circuit_of=circuit_of,
                seed=subject.seed,
            )
            answers |= {
                "disjoint": len(ways),
                "disjoint_nodes": [way.n_nodes for way in ways],
                "disjoint_edges": [way.n_edges for way in ways],
                "exhausted": len(ways) <= self.disjoint,
            }
        return answers

    @property
    def columns(self) -> tuple[Column, ...]:
        """The core's share of a circuit, the agreement of pairs, and the disjoint circuits."""
        return (
            Column(
                answer="core_share",
                heading="core",
                title="share of a circuit that is in all circuits of other prompts and seeds",
                group=STABILITY,
                meaning=(
                    "The method runs again with other seeds, on train and validation prompts drawn "
                    "anew from its own: of what a circuit holds on average, the share that all of "
                    "them hold. The rest is one choice among several."
                ),
                form=".0%",
            ),
            Column(
                answer="ious",
                heading="IoU",
                title="agreement of these circuits, mean over pairs",
                group=STABILITY,
                form=".2f",
            ),
            Column(
                answer="disjoint",
                heading="disjoint",
                title="circuits that meet the target and have no node in common, up to "
                f"{self.disjoint + 1}",
                group=STABILITY,
                meaning=(
                    "All nodes of the circuit are forbidden and the method runs again, until it no "
                    f"longer meets the target, or {self.disjoint + 1} circuits were found. Where "
                    "there are several, none of them is the way in which the model does the task."
                ),
                form=".1f",
            ),
        )


@dataclass(frozen=True, eq=False)
class Family:
    """Circuits of one kind that were found for one task."""

    circuits: tuple[Circuit, ...]

    @property
    def counts(self) -> Int[Tensor, " parts"]:
        """In how many of the circuits each part is.

        Parts are the graph's nodes, or its edges where circuits are given by these. The embedding
        and the logits of a component graph, which every node circuit has, are in none.
        """
        counts = torch.stack([parts_of(circuit) for circuit in self.circuits]).sum(0)
        first = self.circuits[0]
        return counts.masked_fill(ends_of(first.graph), 0) if first.is_node_circuit else counts

    @property
    def core(self) -> Bool[Tensor, " parts"]:
        """Parts of all circuits."""
        return self.counts == len(self.circuits)

    @property
    def contingent(self) -> Bool[Tensor, " parts"]:
        """Parts of two circuits or more, but not of all."""
        return (self.counts > 1) & ~self.core

    @property
    def noise(self) -> Bool[Tensor, " parts"]:
        """Parts of a single circuit, where there are others."""
        return (self.counts == 1) & ~self.core

    @property
    def core_share(self) -> float:
        """Parts of the core over those of a circuit, in the mean; 1 for circuits of nothing."""
        in_all, total = int(self.core.count_nonzero()), int(self.counts.sum())
        return in_all * len(self.circuits) / total if total else 1.0

    @property
    def ious(self) -> tuple[float, ...]:
        """What two circuits both keep over what either keeps (Jaccard index), of every pair."""
        return tuple(first.iou(second) for first, second in combinations(self.circuits, 2))

    @property
    def mean_iou(self) -> float | None:
        """Mean over pairs; None for a single circuit."""
        return fmean(self.ious) if self.ious else None


def family(
    method: Method,
    bound: BoundAblation,
    task: Task,
    circuit: Circuit,
    *,
    resamples: int = 4,
    circuit_of: CircuitOf = chosen_circuit,
    seed: int = 0,
) -> Family:
    """A circuit and those that its method finds with other seeds on resampled prompts.

    Train and validation prompts are drawn anew, with replacement; runs that miss the target count
    for nothing. Run number i (from 1) has the method's seed `seed + i`.

    Args:
        circuit: found by the method on the task as it is.
        circuit_of: the circuit of a discovery.
        seed: of the resampling.
    """
    others = found_again(
        method,
        bound,
        task,
        splits=("train", "validation"),
        method_seeds=range(seed + 1, seed + 1 + resamples),
        circuit_of=circuit_of,
        seed=seed,
    )
    return Family((circuit, *others))


def disjoint_circuits(
    method: RankingMethod,
    bound: BoundAblation,
    task: Task,
    circuit: Circuit,
    *,
    at_most: int = 3,
    circuit_of: CircuitOf = chosen_circuit,
    seed: int = 0,
) -> tuple[Circuit, ...]:
    """A node circuit, and others that the method finds when all nodes so far are forbidden.

    Each of them meets the target, and no two have a node in common but the ends of a component
    graph. It ends at the first run that misses the target. That a method does not find another
    circuit does not prove that there is none.

    Args:
        at_most: how many to look for beside the given one.
        circuit_of: the circuit of a discovery.

    Raises:
        ValueError: for an edge circuit, or a method that does not rank nodes.
    """
    if not circuit.is_node_circuit or not isinstance(method, RankingMethod):
        raise ValueError(
            "nodes are forbidden to a method that ranks them, such as NodePruning or "
            f"AttributionPatching; got {type(method).__name__} and {circuit}."
        )
    found, forbidden = [circuit], torch.zeros(circuit.graph.n_nodes, dtype=torch.bool)
    for _ in range(at_most):
        forbidden |= parts_of(found[-1]) & ~ends_of(circuit.graph)
        avoiding = Avoiding(
            target=method.target,
            method=method,
            nodes=tuple(node_names(circuit.graph, forbidden)),
        )
        discovery = avoiding.discover(bound.model, bound.graph, task, ablation=bound, seed=seed)
        another = circuit_of(discovery)
        if another is None:
            break
        found.append(another)
    return tuple(found)
