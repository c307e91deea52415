"""Whether methods find circuits where there is nothing to find, from their records."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from sparse_lens.evals.counting import edges_counted
from sparse_lens.evals.intervals import geometric_mean
from sparse_lens.evals.records import Control, Record
from sparse_lens.evals.summary import RANDOM
from sparse_lens.evals.wording import counted, three_digits

NOT_RUN = (
    "Controls: it was not tried whether the methods find circuits where there is nothing to find, "
    "in a task without a rule or a model of random weights."
)


def control_records(records: Iterable[Record]) -> tuple[Record, ...]:
    """Those of jobs that had nothing to find, without those of the random control."""
    return tuple(
        record
        for record in records
        if record.status == "done" and record.control is not None and record.method != RANDOM
    )


def control_sentence(records: Iterable[Record]) -> str:
    """In words, how often a target was met where there was nothing to find."""
    controls = control_records(records)
    parts = [
        _outcome(where, of_kind)
        for kind, where in _places(controls).items()
        if (of_kind := [record for record in controls if record.control == kind])
    ]
    if not parts:
        return NOT_RUN
    return f"Controls, where there is nothing to find: {'; '.join(parts)}."


def _places(controls: Sequence[Record]) -> dict[Control, str]:
    tasks = dict.fromkeys(record.task for record in controls if record.control == "task")
    n_tasks = "the task" if len(tasks) == 1 else "the tasks"
    return {
        "task": f"on {n_tasks} without a rule ({', '.join(tasks)})",
        "model": "in models of random weights",
    }


def _outcome(where: str, controls: Sequence[Record]) -> str:
    """Such as `in models of random weights 1 of 2 searches met the target (...)`."""
    found = [record for record in controls if record.met_on_validation]
    text = f"{where} {len(found)} of {counted(len(controls), 'search', 'searches')} met the target"
    if not found:
        return text
    held = sum(record.met_on_held_out for record in found)
    edges = three_digits(geometric_mean([edges_counted(record) for record in found]))
    return f"{text}, {held} of them on held-out prompts, too (geometric mean {edges} edges)"
