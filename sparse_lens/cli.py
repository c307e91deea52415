"""The command line: a command calls the library and prints what comes back.

Imports are inside the commands, so that `--help` does not wait for torch.
"""

from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup


class _OneLineErrors(TyperGroup):
    """Says what is wrong in one line, with exit code 2 for bad input and 1 for bad luck."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            raise  # the reader of our output left; typer ends quietly
        except (ValueError, OSError) as error:
            if ctx.params.get("traceback"):
                raise
            typer.echo(f"Error: {' '.join(str(error).split())}", err=True)
            raise typer.Exit(2 if isinstance(error, ValueError) else 1) from error


class _ListByDefault(TyperGroup):
    """Runs its command `list` when none is named."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        listing = not args or args[0] == "--all"
        return super().parse_args(ctx, ["list", *args] if listing else args)


app = typer.Typer(
    cls=_OneLineErrors,
    no_args_is_help=True,
    pretty_exceptions_show_locals=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
models = typer.Typer(
    cls=_ListByDefault, help="List models (the default); fetch, locate, verify and clear them."
)
app.add_typer(models, name="models")

ModelName = Annotated[str, typer.Argument(metavar="NAME", help="A name from `sparse-lens models`.")]
AnyModelName = Annotated[
    str | None, typer.Argument(metavar="[NAME]", help="One model; all in the cache if left out.")
]


def _print_version(wanted: bool | None) -> None:
    if wanted:
        from sparse_lens._version import __version__

        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[
        bool | None,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Print it."),
    ] = None,
    traceback: Annotated[
        bool, typer.Option("--traceback", help="Show where an error comes from.")
    ] = False,
) -> None:
    """Find circuits in language models, and compare the methods that find them."""


@app.command()
def train(
    preset: Annotated[str, typer.Argument(metavar="PRESET", help="A name from --list.")] = "",
    out: Annotated[
        Path, typer.Option(help="Folder for the model and, until the end, its checkpoint.")
    ] = Path("model"),
    steps: Annotated[int | None, typer.Option(help="Steps, if not the preset's.")] = None,
    channels: Annotated[int | None, typer.Option(help="Width, if not the preset's.")] = None,
    layers: Annotated[int | None, typer.Option(help="Layers, if not the preset's.")] = None,
    weights: Annotated[
        float | None, typer.Option(help="Fraction of nonzero weights, if not the preset's.")
    ] = None,
    embeddings: Annotated[
        float | None,
        typer.Option(help="The same of embedding and unembedding, if not the preset's."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the weights and of the order of the text.")] = 0,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1, ...")] = None,
    listing: Annotated[bool, typer.Option("--list", help="List the presets and stop.")] = False,
) -> None:
    """Train a weight-sparse or dense GPT on Python; an interrupted run goes on where it was."""
    from sparse_lens.training.console import presets_table, train_with_progress
    from sparse_lens.training.preset_changes import Changes

    if listing or not preset:
        from rich.console import Console

        Console().print(presets_table())
        return
    changes = Changes(
        n_steps=steps,
        channels=channels,
        layers=layers,
        weight_fraction=weights,
        embedding_fraction=embeddings,
    )
    train_with_progress(preset, out, changes=changes, seed=seed, device=device)
    typer.echo(out)


@app.command()
def compare(
    out: Annotated[
        Path, typer.Option(help="Folder of results, circuits and report; a rerun goes on in it.")
    ],
    preset: Annotated[str, typer.Option(help="quick or full; flags override.")] = "quick",
    models: Annotated[
        list[str] | None,
        typer.Option(
            help="Names or folders, comma-separated, or the flag several times; random: before one "
            "for its weights at random."
        ),
    ] = None,
    tasks: Annotated[
        list[str] | None,
        typer.Option(help="Names, likewise; or all: the Python tasks that the models can read."),
    ] = None,
    methods: Annotated[list[str] | None, typer.Option(help="Names, likewise.")] = None,
    graph: Annotated[str | None, typer.Option(help="channel or component.")] = None,
    ablation: Annotated[
        str | None,
        typer.Option(help="mean, zero, interchange, resample, or one that another package brings."),
    ] = None,
    objective: Annotated[
        str | None,
        typer.Option(
            help="The loss that all methods work on: task-loss (the default), kl, "
            "logit-difference, probability-difference; none leaves each method its own."
        ),
    ] = None,
    seeds: Annotated[
        int | None, typer.Option(help="How many seeds; a deterministic method runs once.")
    ] = None,
    target_loss: Annotated[
        float | None, typer.Option(help="Two-way task loss, in nats, that circuits must meet.")
    ] = None,
    target_kl: Annotated[
        float | None,
        typer.Option(help="KL that they must meet, too, as a share of the empty circuit's."),
    ] = None,
    under: Annotated[
        list[str] | None,
        typer.Option(
            help="Conditions under which they must meet all that, beside the ablation: resample, "
            "frozen-norms, own-edges, subsets, adversary."
        ),
    ] = None,
    questions: Annotated[
        list[str] | None,
        typer.Option(help="Names from `sparse-lens questions`, likewise; all or none."),
    ] = None,
    steps: Annotated[int | None, typer.Option(help="Of the methods that learn.")] = None,
    fields: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="NAME.FIELD=VALUE",
            help="Any field of a method or a question, objectives, ablations and methods by name; "
            "can be repeated.",
        ),
    ] = None,
    controls: Annotated[
        bool,
        typer.Option(help="Search where there is nothing to find, too: nonsense, random weights."),
    ] = True,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1, ...")] = None,
    workers: Annotated[int, typer.Option(help="Processes that share out jobs and threads.")] = 1,
    report: Annotated[bool, typer.Option(help="Write report.html at the end.")] = True,
) -> None:
    """Find the smallest circuits of several models with several methods, and measure them."""
    from rich.console import Console

    from sparse_lens.commands import compare_command as command

    console = Console()
    comparison = command.comparison_of(
        preset,
        console=console,
        models=models,
        tasks=tasks,
        methods=methods,
        graph=graph,
        ablation=ablation,
        objective=objective,
        questions=questions,
        steps=steps,
        controls=controls,
        assignments=fields or (),
        seeds=seeds,
        target_loss=target_loss,
        target_kl=target_kl,
        under=under,
        device=device,
    )
    results = command.run(comparison, out, workers=workers, report=report, console=console)
    if results.failed:
        raise typer.Exit(1)


@app.command()
def methods() -> None:
    """List methods with their fields: ours, and those of other packages that are installed."""
    from rich.console import Console

    from sparse_lens.commands.installed import describe_methods

    Console().print(describe_methods())


@app.command()
def questions() -> None:
    """List what can be asked of circuits, with fields: ours, and those of other packages."""
    from rich.console import Console

    from sparse_lens.commands.installed import describe_questions

    Console().print(describe_questions())


@app.command()
def tasks(
    model: Annotated[
        str | None, typer.Option(help="Name or folder: say which tasks its tokenizer can carry.")
    ] = None,
) -> None:
    """List tasks: what each asks, with an example pair."""
    from rich.console import Console

    from sparse_lens.commands.tasks import describe_tasks

    Console().print(describe_tasks(model))


@app.command()
def show(
    circuit: Annotated[Path, typer.Argument(help="A saved circuit.")],
    model: Annotated[
        str | None,
        typer.Option(help="Name or folder; a comparison's circuits know theirs."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="The page to write; beside the circuit if left out.")
    ] = None,
) -> None:
    """Draw a circuit as a page for the browser, and print its path."""
    from sparse_lens.commands import show as command

    typer.echo(command.show(circuit, model, out))


@app.command()
def report(
    folder: Annotated[Path, typer.Argument(help="What `compare --out` wrote to.")],
    out: Annotated[
        Path | None, typer.Option(help="The page to write; report.html in the folder.")
    ] = None,
    csv: Annotated[
        Path | None, typer.Option(help="A table to write, too: a row a measurement.")
    ] = None,
) -> None:
    """Write the report of a comparison again, from its folder alone, and print its path."""
    from sparse_lens.commands import show as command

    for path in command.report(folder, out, csv):
        typer.echo(path)


@models.command("list")
def list_models(
    full: Annotated[bool, typer.Option("--all", help="Each of the sweep's models too.")] = False,
) -> None:
    """List models: embedded, cached and available."""
    from rich.console import Console

    from sparse_lens.models import listing, zoo

    Console().print(listing.models_table(zoo.list_models(), full=full))


@models.command()
def fetch(
    name: ModelName,
    base_url: Annotated[
        str | None, typer.Option(help="Address of another server with the same layout.")
    ] = None,
) -> None:
    """Fetch a released model into the cache and print its folder."""
    from sparse_lens.models import zoo

    typer.echo(zoo.resolve(name, base_url=base_url))


@models.command()
def path(name: ModelName) -> None:
    """Print the folder that a name stands for, whether it is filled yet or not."""
    from sparse_lens.models import zoo

    typer.echo(zoo.locate(name))


@models.command()
def verify(name: AnyModelName = None) -> None:
    """Compare cached files with what was recorded when they were fetched."""
    from sparse_lens.models import zoo

    results = zoo.verify(name)
    for each, problems in results.items():
        typer.echo(f"{each}: {'; '.join(problems) or 'as fetched'}")
    if any(results.values()):
        raise typer.Exit(1)


@models.command()
def clear(
    name: AnyModelName = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Delete fetched models."""
    from rich.filesize import decimal

    from sparse_lens.models import download_cache, zoo

    folder = zoo.locate(name) if name else download_cache.cache_folder()
    if not yes:
        typer.confirm(f"Delete {name or 'every fetched model'} in {folder}?", abort=True)
    cleared = zoo.clear_cache(name)
    for entry in cleared:
        typer.echo(f"{entry.name}: {decimal(entry.size or 0)} freed")
    if not cleared:
        typer.echo("nothing was cached")
