"""What the report's tables of numbers show of each circuit, and what it means."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from sparse_lens.evals import question
from sparse_lens.evals.counting import Unit
from sparse_lens.evals.labels import setting_of
from sparse_lens.evals.question import Column
from sparse_lens.evals.records import Measurement, MeasurementKind, Record
from sparse_lens.evals.report.cells import Cell, Cells, Value


@dataclass(frozen=True)
class TableColumn:
    """A column of numbers."""

    heading: str
    title: str
    values: Callable[[Cell], tuple[int | float, ...]]
    """Those of a cell, whose mean is shown."""

    form: str = ".3f"


@dataclass(frozen=True)
class Group:
    """Columns under one heading."""

    heading: str
    columns: tuple[TableColumn, ...]

    def measured(self, cells: Cells) -> Group:
        """Without the columns for which no record has a number."""
        kept = (c for c in self.columns if any(c.values(cell) for cell in cells.cells))
        return Group(self.heading, tuple(kept))


def _measured(
    heading: str, title: str, kind: MeasurementKind, value: Value, form: str = ".3f"
) -> TableColumn:
    """A column of a kind of measurement."""
    return TableColumn(heading, title, lambda cell: cell.values(kind, value), form)


def _edges(
    heading: str, title: str, value: Callable[[Measurement], int], unit: Unit = "edges"
) -> TableColumn:
    """A column of edges, of the circuits that are compared in one unit."""
    return TableColumn(
        heading,
        title,
        lambda cell: cell.values("chosen", value) if cell.unit == unit else (),
        ",.0f",
    )


CIRCUITS = (
    Group("circuit", (
        _edges("edges", "edges that the circuit keeps", lambda m: m.n_edges),
        _edges("paths", "of these, on a path from input to output", lambda m: m.connected_edges),
        _edges("edges between", "all edges between the nodes of a node circuit, in a component "
               "graph: not to be compared with edges that a method chose", lambda m: m.n_edges,
               "nodes"),
        _measured("nodes", "nodes that the circuit keeps", "chosen", lambda m: m.n_nodes, ",.0f"),
        _measured("weights", "nonzero weights inside its heads and MLPs", "chosen",
                  lambda m: m.weights_inside, ",.0f"),
    )),
    Group("the circuit on held-out prompts", (
        _measured("loss", "two-way loss, nats", "chosen", lambda m: m.task_loss),
        _measured("KL", "KL(full || circuit), nats", "chosen", lambda m: m.kl),
        _measured("accuracy", "of answer against distractor", "chosen", lambda m: m.accuracy,
                  ".1%"),
        _measured("match", "the same most likely token as the full model", "chosen",
                  lambda m: m.exact_match, ".1%"),
    )),
)  # fmt: skip

CONTROLS = (
    Group("circuit", (
        _measured("loss", "two-way loss, nats", "chosen", lambda m: m.task_loss),
    )),
    Group(question.CONTROLS, (
        _measured("full", "two-way loss of the full model", "full", lambda m: m.task_loss),
        _measured("random", "two-way loss of random circuits of the same size", "random",
                  lambda m: m.task_loss),
        _measured("empty", "two-way loss with everything ablated", "empty", lambda m: m.task_loss),
        _measured("ablated", "two-way loss with the circuit ablated and the rest kept", "chosen",
                  lambda m: m.necessity_task_loss),
    )),
)  # fmt: skip


def controls(cells: Cells) -> tuple[Group, ...]:
    """The groups of controls and of answers to questions that the records hold."""
    groups = {group.heading: list(group.columns) for group in CONTROLS}
    for name, columns in _answer_columns(cells.done).items():
        for column in columns:
            groups.setdefault(column.group, []).append(_answered(name, column))
    return tuple(Group(heading, tuple(columns)) for heading, columns in groups.items())


def meanings(cells: Cells) -> dict[str, str]:
    """Explanations of the columns of answers, by the headings that they explain."""
    by_headings: dict[str, list[str]] = {}
    for record in cells.done:
        for columns in _answer_columns([record]).values():
            for headings, meaning in _with_headings(columns):
                known = by_headings.setdefault(headings, [])
                if meaning not in known:  # it differs if fields of the question do
                    known.append(meaning)
    return {headings: " ".join(known) for headings, known in by_headings.items()}


def _answer_columns(records: Sequence[Record]) -> dict[str, tuple[Column, ...]]:
    """The columns of each question, from the first record that has it."""
    by_question: dict[str, tuple[Column, ...]] = {}
    for record in records:
        for name, columns in record.columns.items():
            by_question.setdefault(name, columns)
    return by_question


def _answered(name: str, column: Column) -> TableColumn:
    """The column of an answer to the question of that name."""
    heading = f"{column.heading}{setting_of(name)}"
    return TableColumn(heading, column.title, lambda cell: cell.answers(name, column), column.form)


def _with_headings(columns: Sequence[Column]) -> list[tuple[str, str]]:
    """Pairs of headings and meaning; columns without a meaning share that of the one before."""
    grouped: list[tuple[str, str]] = []
    for column in columns:
        if column.meaning:
            grouped.append((column.heading, column.meaning))
        elif grouped:
            headings, meaning = grouped[-1]
            grouped[-1] = f"{headings}, {column.heading}", meaning
    return grouped
