"""What a node circuit loses when only the edges that it is counted by are alive."""

from __future__ import annotations

from dataclasses import dataclass

from sparse_lens.evals.metrics import measure
from sparse_lens.evals.question import ROBUSTNESS, Answers, Column, Question, Subject
from sparse_lens.parts import by_its_edges


@dataclass(frozen=True)
class StrictEdges(Question):
    """A node circuit while only the edges that it is counted by are alive.

    In a node circuit a pruned node carries its ablated value, but what it would be is still
    computed from live values, and where an AbsTopK follows it competes for a place with the kept
    nodes: the circuit may depend on weights that are in no count of its edges. Here these weights
    read ablated values, too. See :func:`sparse_lens.parts.by_its_edges`.

    An edge circuit is strict as it is, and is not asked.
    """

    def ask(self, subject: Subject) -> Answers:
        """The metrics of the circuit given by its edges."""
        if not subject.circuit.is_node_circuit:
            return {}
        return measure(
            subject.bound,
            by_its_edges(subject.circuit),
            subject.prompts,
            full_logits=subject.full_logits,
        ).means()

    @property
    def columns(self) -> tuple[Column, ...]:
        """The task loss."""
        return (
            Column(
                answer="task_loss",
                heading="own edges",
                target_words="with only their own edges alive",
                title="two-way loss when only the circuit's own edges are alive",
                group=ROBUSTNESS,
                meaning=(
                    "All weights but those between two nodes of the circuit read ablated values. "
                    "A node circuit leaves more alive: what is pruned still competes for places "
                    "in an AbsTopK. Where the loss rises, the circuit needs more than its edges."
                ),
            ),
        )
