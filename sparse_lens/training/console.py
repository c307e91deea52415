"""Training on a terminal: a table of the presets, and the progress of a run."""

from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from sparse_lens.training.preset_changes import Changes
from sparse_lens.training.presets import PRESETS
from sparse_lens.training.train_preset import train_preset


def presets_table() -> Table:
    """A table of the presets."""
    table = Table("preset", "steps", "what it trains")
    for name, preset in PRESETS.items():
        table.add_row(name, f"{preset.training.n_steps:,}", preset.description)
    return table


def train_with_progress(
    name: str, out: Path, *, changes: Changes, seed: int, device: str | None
) -> None:
    """Train a preset, showing the training loss as it falls and each validation as a line."""
    console = Console()
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[loss]}"),
        TimeRemainingColumn(),
    )
    console.print("reading the standard library, training the tokenizer ...")
    with Progress(*columns, console=console) as bar:
        task = bar.add_task(name, total=None, loss="")

        def show(row: dict[str, float | int], total: int) -> None:
            loss = f"loss {row['train_loss']:.3f}"
            bar.update(task, completed=row["step"], total=total, loss=loss)
            losses = [f"{k.removesuffix('_loss')} {v:.4f}" for k, v in row.items() if "_loss" in k]
            if len(losses) > 1:
                console.print(f"step {int(row['step'])}: {', '.join(losses)} nats")

        train_preset(name, out, changes=changes, seed=seed, device=device, progress=show)
