"""Records gathered for the report: one cell for each task, model and method, over seeds."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import fmean

from sparse_lens.evals import tasks
from sparse_lens.evals.counting import Unit, unit_of
from sparse_lens.evals.question import Column
from sparse_lens.evals.records import Measurement, MeasurementKind, Record
from sparse_lens.evals.summary import RANDOM, Setting

LEARNED = "node-pruning"
"""Registered name of the method that the report shows first."""

Value = Callable[[Measurement], int | float | None]
"""What is read off a measurement."""


@dataclass(frozen=True)
class Cell:
    """The records of one task, model and setting, by seed."""

    task: str
    model: str
    setting: Setting
    unit: Unit
    """What circuits of its setting are compared in: see `unit_of`."""

    records: tuple[Record, ...]

    @property
    def met(self) -> bool:
        """Whether the target was met with every seed, on validation."""
        return all(record.met_on_validation for record in self.records)

    @property
    def is_control(self) -> bool:
        """Whether there was nothing to find."""
        return self.first.control is not None

    @property
    def met_on_held_out(self) -> bool:
        """Whether the chosen circuits meet it on held-out prompts, too."""
        return all(record.met_on_held_out for record in self.records)

    @property
    def first(self) -> Record:
        """The record of the first seed."""
        return self.records[0]

    def values(self, kind: MeasurementKind, value: Value) -> tuple[int | float, ...]:
        """A value of every measurement of a kind that has it, over seeds and draws."""
        values = (value(m) for record in self.records for m in record.of_kind(kind))
        return tuple(number for number in values if number is not None)

    def answers(self, question: str, column: Column) -> tuple[float, ...]:
        """The number in a column of a question's answers for every seed that has one."""
        draws = (record.numbers(question, column.answer) for record in self.records)
        return tuple(column.aggregate(numbers) for numbers in draws if numbers)

    def mean(self, kind: MeasurementKind, value: Value) -> float | None:
        """Its mean; None where there is no such measurement."""
        values = self.values(kind, value)
        return fmean(values) if values else None


@dataclass(frozen=True)
class Cells:
    """All cells, with models, tasks and settings in the order of the report.

    The order comes from what the records say, not from the order in which jobs ended.
    """

    records: tuple[Record, ...]
    """In the report's order, failed ones included."""

    @classmethod
    def of(cls, records: Iterable[Record]) -> Cells:
        """Gather records."""
        return cls(tuple(sorted(records, key=_order)))

    @cached_property
    def done(self) -> tuple[Record, ...]:
        """Records of jobs that ended well."""
        return tuple(record for record in self.records if record.status == "done")

    @cached_property
    def claimed(self) -> Cells:
        """Without controls, which count in no claim."""
        return Cells(tuple(record for record in self.records if record.control is None))

    @cached_property
    def models(self) -> tuple[str, ...]:
        """The sparsest first, those of random weights last."""
        return tuple(dict.fromkeys(record.model for record in self.records))

    @cached_property
    def tasks(self) -> tuple[str, ...]:
        """In the registry's order, others after them."""
        return tuple(sorted(dict.fromkeys(record.task for record in self.records), key=_task_order))

    @cached_property
    def settings(self) -> tuple[Setting, ...]:
        """Those with a result: the method that learns masks first, the random control last."""
        settings = dict.fromkeys(Setting.of(record) for record in self.done)
        return tuple(sorted(settings, key=_setting_order))

    @cached_property
    def cells(self) -> tuple[Cell, ...]:
        """By task, model and setting; only what has a record that is done."""
        cells = (
            self.cell(task, model, setting)
            for task in self.tasks
            for model in self.models
            for setting in self.settings
        )
        return tuple(cell for cell in cells if cell is not None)

    def cell(self, task: str, model: str, setting: Setting) -> Cell | None:
        """One cell; None where no job is done."""
        records = self._by_key.get((task, model, setting))
        if records is None:
            return None
        return Cell(task, model, setting, self.unit(setting), tuple(records))

    def unit(self, setting: Setting) -> Unit:
        """What circuits of a setting are compared in: see `unit_of`."""
        return self._units[setting]

    @cached_property
    def _units(self) -> dict[Setting, Unit]:
        by_setting: dict[Setting, list[Record]] = {}
        for record in self.done:
            by_setting.setdefault(Setting.of(record), []).append(record)
        return {setting: unit_of(records) for setting, records in by_setting.items()}

    @cached_property
    def _by_key(self) -> dict[tuple[str, str, Setting], list[Record]]:
        by_key: dict[tuple[str, str, Setting], list[Record]] = {}
        for record in self.done:
            by_key.setdefault((record.task, record.model, Setting.of(record)), []).append(record)
        return by_key

    def colour(self, model: str) -> int:
        """A model's number in the palette."""
        return self.models.index(model)

    def style(self, setting: Setting) -> int:
        """A setting's number among dashes and symbols."""
        return self.settings.index(setting)

    def setting_name(self, setting: Setting) -> str:
        """The method's name, with graph and ablation where these differ."""
        parts = [setting.method]
        for name in ("graph", "ablation"):
            if len({getattr(other, name) for other in self.settings}) > 1:
                parts.append(str(getattr(setting, name)))
        return ", ".join(parts)


def shared(values: Sequence[object]) -> str:
    """The one value, or all that there are."""
    return ", ".join(dict.fromkeys(str(value) for value in values))


def _order(record: Record) -> tuple[object, ...]:
    return (
        record.control == "model",
        record.nonzero_fraction,
        record.n_parameters,
        record.model,
        _task_order(record.task),
        record.method == RANDOM,
        record.method,
        record.graph,
        str(record.ablation.get("type")),
        record.seed,
        record.job_id,
    )


def _setting_order(setting: Setting) -> tuple[object, ...]:
    is_learned, is_random = setting.method == LEARNED, setting.method == RANDOM
    return (is_random, not is_learned, setting.method, setting.graph, setting.ablation)


def _task_order(task: str) -> tuple[int, str]:
    known = tasks.names("all")
    return (known.index(task) if task in known else len(known), task)
