"""The records of a comparison, in a folder that grows as jobs end."""

from __future__ import annotations

import json
import os
import threading
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sparse_lens.atomic import remove_unfinished, write_atomically
from sparse_lens.evals.records import Measurement, Record
from sparse_lens.plotting.network import Network

if TYPE_CHECKING:
    import pandas as pd

RESULTS_FILE = "results.jsonl"

NOT_IN_TABLES = ("measurements", "columns", "question_errors")
"""Fields of records that a table has as rows, or not at all."""


def drawing_path(circuit: Path) -> Path:
    """Where the drawing of a comparison's circuit is kept: beside it."""
    return circuit.with_suffix(".drawing.json")


@dataclass(frozen=True, eq=False)
class Results:
    """Records, one a job, in the order of the comparison, whichever job ended first."""

    records: tuple[Record, ...]
    folder: Path | None = None
    """Where `results.jsonl` and `circuits/` lie; the circuits' paths are relative to it."""

    @classmethod
    def load(cls, folder: str | os.PathLike[str]) -> Results:
        """Read the records of a folder.

        Of jobs for the same model, task, method, graph, ablation and seed (run again after a
        failure, or with other settings) the last counts.

        Raises:
            FileNotFoundError: when it holds no results.
            ValueError: when a line is not a record.
        """
        path = Path(folder) / RESULTS_FILE
        if not path.is_file():
            raise FileNotFoundError(
                f"no results in {folder}: expected {RESULTS_FILE}, which "
                "`sparse-lens compare --out FOLDER` writes."
            )
        lines, _ = _whole_lines(path)
        records = [_parse(path, i, line) for i, line in enumerate(lines)]
        last = {_cell(record): record for record in records}.values()
        return cls(tuple(sorted(last, key=lambda record: record.order)), path.parent)

    def __iter__(self) -> Iterator[Record]:
        return iter(self.records)

    def __len__(self) -> int:
        return len(self.records)

    @property
    def done(self) -> tuple[Record, ...]:
        """Records of the jobs that ended well."""
        return tuple(record for record in self.records if record.status == "done")

    @property
    def failed(self) -> tuple[Record, ...]:
        """Records of the jobs that did not, or of which a question could not be answered."""
        return tuple(record for record in self.records if record.failures)

    def circuit_path(self, record: Record) -> Path:
        """The file of a record's chosen circuit, for `Circuit.load`.

        Raises:
            ValueError: when the job failed, or these results belong to no folder.
        """
        if self.folder is None or record.circuit is None:
            raise ValueError(f"job {record.job_id} has no saved circuit (status {record.status}).")
        return self.folder / record.circuit

    @property
    def has_circuits(self) -> bool:
        """Whether every circuit that met its target is in its file."""
        return self.folder is not None and all(
            self.circuit_path(record).is_file() for record in self.done if record.met_on_validation
        )

    def drawing(self, record: Record) -> Network | None:
        """The drawing of a record's chosen circuit; None where none is kept.

        Raises:
            ValueError: when its file holds something else.
        """
        if self.folder is None or record.circuit is None:
            return None
        path = drawing_path(self.circuit_path(record))
        return Network.from_json(path.read_text(encoding="utf-8")) if path.is_file() else None

    def to_pandas(self) -> pd.DataFrame:
        """One row a measurement, with the job's fields before it; one row for a failed job.

        Columns are the fields of `Record`, in their order, then those of `Measurement` (`kind` says
        which measurement a row is). What is nested has a column for each leaf, with dots in its
        name: `hyperparameters.n_steps`, `hyperparameters.objective.type`, `ablation.type`,
        `budgets.fractions`, `answers.minimality.dispensable_share`, `versions.torch`. Lists are
        JSON: `search`, `budgets.fractions`. A method without such a field, and a job without such a
        number, has a missing value there. How the report shows answers (`columns`) is left out.
        """
        import pandas as pd

        jobs = [_job_cells(record) for record in self.records]
        rows = [
            {**job, **measured}
            for job, record in zip(jobs, self.records, strict=True)
            for measured in [asdict(m) for m in record.measurements] or [{}]
        ]
        names = dict.fromkeys(name for job in jobs for name in job)
        columns = [
            name
            for f in fields(Record)
            for name in names
            if name == f.name or name.startswith(f"{f.name}.")
        ]
        return pd.DataFrame(rows, columns=[*columns, *(f.name for f in fields(Measurement))])

    def to_csv(self, path: str | os.PathLike[str]) -> None:
        """Write `to_pandas()` as CSV, in one step.

        Raises:
            FileNotFoundError: when there is no such folder.
        """
        write_atomically(Path(path), self.to_pandas().to_csv(index=False).encode())


class ResultsWriter:
    """Appends records to a folder's file: a line is there whole, or not at all.

    A line that a killed run left half written is cut off, with a warning, when the file is opened.

    Raises:
        ValueError: while another process writes to the folder.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(folder)
        (self.folder / "circuits").mkdir(parents=True, exist_ok=True)
        self._lock = threading.Lock()
        self._done: dict[str, Record] = {}
        self._last: dict[tuple[object, ...], str] = {}
        path = self.folder / RESULTS_FILE
        self._lock_file = os.open(self.folder / ".lock", os.O_WRONLY | os.O_CREAT, 0o644)
        try:
            _lock_for_this_process(self._lock_file, self.folder)
            remove_unfinished(self.folder / "circuits")
            if path.exists():
                lines, length = _whole_lines(path)
                if length < path.stat().st_size:
                    os.truncate(path, length)
                for index, line in enumerate(lines):
                    self._remember(_parse(path, index, line))
            self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        except BaseException:
            os.close(self._lock_file)
            raise

    def finished(self, job_id: str, *, order: int) -> Record | None:
        """The record of a job that an earlier run ended well, if its files are there as well.

        If other settings ran since, or it has another index now, it is written once more, so that
        it is what `Results.load` finds, and there.

        Args:
            order: the job's index in the comparison.
        """
        record = self._done.get(job_id)
        if record is None or record.circuit is None:
            return None
        circuit = self.folder / record.circuit
        files = [circuit, drawing_path(circuit)] if record.met_on_validation else [circuit]
        if not all(file.is_file() for file in files):
            return None
        if self._last[_cell(record)] != job_id or record.order != order:
            record = replace(record, order=order)
            self.append(record)
        return record

    def append(self, record: Record) -> None:
        """Write one record and wait until it is on disk."""
        line = (json.dumps(record.to_json()) + "\n").encode()
        with self._lock:
            written = os.write(self._file, line)
            if written < len(line):  # a full disk, or a signal: the rest must follow at once
                _write_rest(self._file, line[written:])
            os.fsync(self._file)
            self._remember(record)

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)
        os.close(self._lock_file)

    def _remember(self, record: Record) -> None:
        self._last[_cell(record)] = record.job_id
        if not record.failures:
            self._done[record.job_id] = record

    def __enter__(self) -> ResultsWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _lock_for_this_process(file: int, folder: Path) -> None:
    """Lock a file for this process; the system lets go when the process ends, however it does."""
    try:
        import fcntl
    except ImportError:  # Windows
        return
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        raise ValueError(
            f"another comparison is writing to {folder}: wait for its end, or pass another folder."
        ) from None
    except OSError:
        return  # a file system without locks


def _job_cells(record: Record) -> dict[str, Any]:
    """The cells that all rows of a job have, by column."""
    row = record.to_json()
    return _flat({name: value for name, value in row.items() if name not in NOT_IN_TABLES})


def _flat(value: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Leaves by their dotted names, lists as JSON."""
    leaves: dict[str, Any] = {}
    for name, item in value.items():
        if isinstance(item, Mapping):
            leaves |= _flat(item, f"{prefix}{name}.")
        else:
            leaves[prefix + name] = json.dumps(item) if isinstance(item, (list, tuple)) else item
    return leaves


def _write_rest(file: int, rest: bytes) -> None:
    while rest:
        rest = rest[os.write(file, rest) :]


def _whole_lines(path: Path) -> tuple[list[bytes], int]:
    """The lines that end in a newline, and where the last of them ends in the file."""
    content = path.read_bytes()
    length = content.rfind(b"\n") + 1
    if length < len(content):
        warnings.warn(
            f"{path} ends in a line that was not written to its end ({len(content) - length} "
            "bytes): the run was interrupted there. It is left out, and its job will run again.",
            stacklevel=3,
        )
    return content[:length].splitlines(), length


def _parse(path: Path, index: int, line: bytes) -> Record:
    try:
        return Record.from_json(json.loads(line))
    except ValueError as error:
        raise ValueError(f"{path}, line {index + 1}: {error}") from error


def _cell(record: Record) -> tuple[object, ...]:
    """What two records of the same job under other settings have in common."""
    ablation = json.dumps(record.ablation, sort_keys=True)
    return (record.model, record.task, record.method, record.graph, ablation, record.seed)
