"""What one record counts with: whether its model can do the task, and the size of its circuit."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from sparse_lens.evals.records import Record

CAN_DO_LOSS = 0.15
CAN_DO_ACCURACY = 0.95

EdgeCount = Literal["kept", "connected"]

Unit = Literal["edges", "nodes"]
"""What sizes are compared in: nodes, where edges are implied by them."""


def can_do(record: Record, *, loss: float = CAN_DO_LOSS, accuracy: float = CAN_DO_ACCURACY) -> bool:
    """Whether the full model does a task on its validation prompts.

    Raises:
        ValueError: for the record of a job that ended before that was measured.
    """
    full_loss, full_accuracy = record.full_validation_loss, record.full_validation_accuracy
    if full_loss is None or full_accuracy is None:
        raise ValueError(
            f"the record of {record.model}, {record.task} and {record.method} does not say how "
            f"well the full model does on the validation prompts (status {record.status}): run the "
            "comparison again."
        )
    return full_loss <= loss and full_accuracy >= accuracy


def edges_counted(record: Record, *, count: EdgeCount = "kept") -> int:
    """The edges that a record counts with: the full graph's if unmet, and at least one."""
    if not record.met_on_validation:
        return record.graph_edges
    return max(1, chosen_edges(record, count))


def nodes_counted(record: Record, *, count: EdgeCount = "kept") -> int:
    """The nodes that a record counts with: the full graph's if unmet, and at least one."""
    if not record.met_on_validation:
        return record.graph_nodes
    chosen = record.chosen
    return max(1, chosen.n_nodes if count == "kept" else chosen.connected_nodes)


def unit_of(records: Iterable[Record]) -> Unit:
    """What circuits of one setting are compared in.

    Nodes where any of them has edges that are only implied (`Record.has_implied_edges`).
    """
    return "nodes" if any(record.has_implied_edges for record in records) else "edges"


def size_counted(record: Record, unit: Unit, *, count: EdgeCount = "kept") -> int:
    """What a record counts with in a unit."""
    size = nodes_counted if unit == "nodes" else edges_counted
    return size(record, count=count)


def chosen_edges(record: Record, count: EdgeCount) -> int:
    """The edges of the chosen circuit, none where it has none."""
    return record.chosen.n_edges if count == "kept" else record.chosen.connected_edges
