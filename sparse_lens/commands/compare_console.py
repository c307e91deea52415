"""What a person sees of a running comparison."""

from __future__ import annotations

import time

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bar
from rich.table import Table
from rich.text import Text

from sparse_lens.commands.time_left import in_words, seconds_left
from sparse_lens.evals.control_outcomes import control_records, control_sentence
from sparse_lens.evals.evidence import counted_records, evidence, evidence_sentences
from sparse_lens.evals.harness.running import Progress
from sparse_lens.evals.intervals import geometric_mean
from sparse_lens.evals.model_families import family_ratios
from sparse_lens.evals.records import Record
from sparse_lens.evals.results import Results
from sparse_lens.evals.seed_stability import sentences, stability
from sparse_lens.evals.summary import MeanSize, Summary, pretraining_sentence, summarize
from sparse_lens.evals.wording import counted, three_digits

# Heading, width, and whether it is text; 120 columns with the gaps.
COLUMNS = (
    ("model", 16, True),
    ("task", 18, True),
    ("method", 20, True),
    ("seed", 4, False),
    ("edges/on paths", 14, False),
    ("loss", 6, False),
    ("KL", 6, False),
    ("acc", 4, False),
    ("ablated", 7, False),
    ("seconds", 7, False),
)

_LEGEND = (
    "On held-out prompts, in nats; ablated: the loss with the circuit ablated and the rest kept.\n"
    "* unmet: no circuit met the target on validation; counted as the full graph.\n"
    "! missed (yellow): met there, but not on held-out prompts; counted with its own size.\n"
    "Dim: a control, with nothing to find; not counted."
)

_EDGES_BETWEEN = (
    " A node circuit in a component graph has all edges between its nodes, a number not to be "
    "compared with that of edges that a method chose."
)


class Display:
    """Prints a row as each job ends, with how many have ended and the time that is left.

    On a terminal the latter stand in a `bar` below the rows, elsewhere at the end of each row.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self.bar = Bar(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[left]}"),
            console=console,
            disable=not console.is_terminal,
        )
        self._task = self.bar.add_task("loading models", total=None, left="")
        self._running: dict[int, str] = {}
        self._started: float | None = None
        self._taken: dict[str, list[float]] = {}
        self._headed = False

    def __enter__(self) -> Display:
        self.bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.stop()

    def show(self, progress: Progress) -> None:
        """For `Comparison.run(progress=...)`."""
        if not self._headed:
            self._headed = True
            self._print(Text(_line([name for name, _, _ in COLUMNS]), style="bold"))
        record, now = progress.record, time.monotonic()
        if record is None:
            name = f"{progress.model} {progress.task} {progress.method}"
            self._running[progress.number] = f"job {progress.number}: {escape(name)}"
            self._started = self._started or now
        else:
            self._running.pop(progress.number, None)
            if not progress.resumed:
                self._started = self._started or now - record.job_seconds
                self._taken.setdefault(progress.method, []).append(record.job_seconds)
        ended = progress.total - sum(progress.remaining.values())
        elapsed = now - (self._started or now)
        left = in_words(seconds_left(self._taken, progress.remaining, elapsed))
        if record is not None:
            row = _row(record, resumed=progress.resumed)
            if not self._console.is_terminal:
                row.append(f"  {ended}/{progress.total}  {left}".rstrip())
            self._print(row)
        latest = list(self._running.values())[-1:]
        more = f" and {len(self._running) - 1} more" if len(self._running) > 1 else ""
        self.bar.update(
            self._task,
            description="".join(latest) + more,
            completed=ended,
            total=progress.total,
            left=left,
        )

    def summary(self, results: Results) -> None:
        """The table of mean sizes, and the ratios in words."""
        self._print(Text(_LEGEND, style="dim"))
        summary = summarize(results.records)
        if summary.means:
            self._console.print(_means_table(summary))
        statements = (
            pretraining_sentence(summary.models),
            *summary.statements,
            *(ratio.sentence for ratio in family_ratios(results.records, summary)),
            summary.failure_words,
            *_evidence(results, summary),
            *sentences(stability(results)),
        )
        for statement in statements:
            if statement:
                self._console.print(Text(statement))
        for record in results.failed:
            for where, error in record.failures.items():
                last = error.strip().splitlines()[-1:]
                self._print(Text(f"failed: {where}: {' '.join(last)}", style="red"))

    def _print(self, text: Text) -> None:
        self._console.print(text, soft_wrap=True, highlight=False)


def _evidence(results: Results, summary: Summary) -> list[str]:
    """What the counted circuits withstand, below a line that says which they are."""
    found = evidence(counted_records(results.records, summary))
    controls = control_records(results.records)
    if not found.circuits and not controls:
        return []
    n_circuits = counted(len(found.circuits), "circuit")
    sentences = [*evidence_sentences(found), control_sentence(controls)]
    return [
        f"Evidence and doubts: {n_circuits} met the target on validation.",
        *(f"  {sentence}" for sentence in sentences),
    ]


def _row(record: Record, *, resumed: bool) -> Text:
    seed = "none" if record.deterministic else str(record.seed)
    name = [record.model, record.task, record.method, seed]
    if record.status == "failed":
        return Text(_line([*name, "failed"]), style="red")
    chosen = record.chosen
    mark = "" if record.met_on_held_out else "!"
    if not record.met_on_validation:
        mark = "*"
    size = f"{chosen.n_edges:,}/{chosen.connected_edges:,}"
    if record.has_implied_edges:
        size = counted(chosen.n_nodes, "node")
    cells = [
        *name,
        f"{mark}{size}",
        f"{chosen.task_loss:.3f}",
        f"{chosen.kl:.3f}",
        f"{chosen.accuracy:.2f}",
        f"{chosen.necessity_task_loss:.3f}",
        "before" if resumed else f"{record.seconds:.1f}",
    ]
    style = "" if record.met_on_held_out else "yellow"
    return Text(_line(cells), style=style if record.control is None else "dim")


def _line(cells: list[str]) -> str:
    parts = []
    for cell, (_, width, is_text) in zip(cells, COLUMNS, strict=False):
        parts.append(f"{cell:<{width}.{width}}" if is_text else f"{cell:>{width}}")
    return "  ".join(parts).rstrip()


def _means_table(summary: Summary) -> Table:
    n_tasks = len(summary.common_tasks)
    tasks = "task" if n_tasks == 1 else f"{n_tasks} tasks"
    nonzero = {model.model: model.nonzero_fraction for model in summary.models}
    sizes = {mean.model: (mean.graph_nodes, mean.graph_edges) for mean in summary.means}
    graphs = "; ".join(
        f"{escape(model)}: {nonzero[model]:.1%} of the weights nonzero, {nodes:,} nodes and "
        f"{edges:,} edges in all"
        for model, (nodes, edges) in sizes.items()
    )
    in_nodes = any(mean.unit == "nodes" for mean in summary.means)
    table = Table(
        "method",
        "model",
        "nodes",
        "edges",
        "by seed",
        "unmet",
        "missed",
        "no edge",
        title=f"Sizes (geometric means) on the {tasks} that all models can do",
        caption=f"{graphs}. Of the targets, unmet counts as the full graph, missed with its own "
        "size, no edge as one." + (_EDGES_BETWEEN if in_nodes else ""),
        box=SIMPLE_HEAD,
        pad_edge=False,
        collapse_padding=True,
    )
    if in_nodes:
        table.add_column("edges between")
    groups: dict[tuple[str, str], list[MeanSize]] = {}
    for mean in summary.means:
        groups.setdefault((mean.setting.method, mean.model), []).append(mean)
    for (method, model), means in groups.items():
        in_edges = means[0].unit == "edges"
        edges = three_digits(geometric_mean([mean.edges for mean in means]))
        by_seed = [three_digits(mean.edges if in_edges else mean.nodes) for mean in means]
        table.add_row(
            escape(method),
            escape(model),
            three_digits(geometric_mean([mean.nodes for mean in means])),
            edges if in_edges else "",
            "" if means[0].setting.deterministic else " ".join(by_seed),
            str(sum(len(mean.unmet) for mean in means)),
            str(sum(len(mean.missed) for mean in means)),
            str(sum(len(mean.zero) for mean in means)),
            *([] if in_edges else [edges]),
        )
    for column in table.columns[:2]:
        column.no_wrap = True
    for column in table.columns[2:]:
        column.justify = "right"
    return table
