"""`sparse-lens show` and `sparse-lens report`: pages of one circuit and of a comparison."""

from __future__ import annotations

from html import escape
from pathlib import Path

from transformer_lens import HookedTransformer

from sparse_lens.circuit import Circuit
from sparse_lens.evals.records import Record
from sparse_lens.evals.report import write_report
from sparse_lens.evals.results import RESULTS_FILE, Results
from sparse_lens.graph_file import graph_kind, read_header
from sparse_lens.graphs.base import Graph
from sparse_lens.graphs.channel import ChannelGraph
from sparse_lens.graphs.component import ComponentGraph
from sparse_lens.models.checkpoint import load_sparse_gpt
from sparse_lens.plotting.drawing import network_spec
from sparse_lens.plotting.network import Network
from sparse_lens.plotting.notes import CIRCUIT_NOTE, PROFILE_NOTE
from sparse_lens.plotting.page import figure_place, render_page, write_page


def show(circuit: Path, model: str | None, out: Path | None) -> Path:
    """Write the page of a saved circuit, by default beside it.

    Args:
        model: name or folder; not needed for a circuit of a comparison that met its target.

    Raises:
        FileNotFoundError: when there is no such file.
        ValueError: when it is no circuit, one of another model, or the model is not known.
    """
    if not circuit.is_file():
        raise FileNotFoundError(f"no circuit at {circuit}.")
    results, record = _record_of(circuit)
    if model is not None:
        network = _draw(circuit, model)
    elif results is not None and record is not None:
        network = results.drawing(record)
    else:
        network = None
    if network is None:
        read_header(circuit, "circuit")  # a file that is no circuit is an error of its own
        owner = f" It belongs to {record.model!r}." if record else ""
        raise ValueError(
            f"there is no drawing of {circuit} yet; it takes the model's weights.{owner} "
            "Pass --model NAME_OR_FOLDER."
        )
    heading = f"{record.task}, {record.model}, {record.method}" if record else circuit.stem
    return write_page(out or circuit.with_suffix(".html"), _page(heading, network))


def report(folder: Path, out: Path | None, csv: Path | None) -> list[Path]:
    """Write the report of a comparison again, from its folder alone, and a table where asked.

    The table is written first: it lists failed jobs even where there is nothing to report.
    """
    results = Results.load(folder)
    if csv is not None:
        results.to_csv(csv)
    page = write_report(results, out or folder / "report.html")
    return [page] if csv is None else [csv, page]


def graph_of(model: HookedTransformer, kind: str, fingerprint: str) -> Graph:
    """The graph of a model that has the given fingerprint, among those of all options.

    Raises:
        ValueError: when no graph of the model has it.
    """
    for option in (False, True):
        graph: Graph
        if kind == ComponentGraph.kind:
            graph = ComponentGraph.from_model(model, split_embeddings=option)
        else:
            graph = ChannelGraph.from_model(model, final_resid=not option)
        if graph.fingerprint == fingerprint:
            return graph
    raise ValueError(
        f"no {kind} graph of this model has the fingerprint {fingerprint}: the circuit is one of "
        "another model, or the model was changed."
    )


def _page(heading: str, network: Network) -> str:
    spec = network_spec(network)
    figure = figure_place("circuit", height=spec["layout"]["height"], label=heading, tools=True)
    counts = (
        f"<b>{network.n_edges:,} edges</b> between {len(network.nodes):,} nodes; "
        f"{network.n_connected_edges:,} edges and {network.n_connected_nodes:,} nodes on paths "
        "from input to output."
    )
    note = CIRCUIT_NOTE[network.kind] + (f" {PROFILE_NOTE}" if network.profiles else "")
    body = (
        f"<h1>{escape(heading)}</h1><p>{counts}</p>"
        f'<p class="note">{note}</p><div class="card">{figure}</div>'
    )
    return render_page(heading, body, {"circuit": spec})


def _draw(path: Path, model: str) -> Network:
    header = read_header(path, "circuit")
    loaded = load_sparse_gpt(model)
    graph = graph_of(loaded, graph_kind(header), header["fingerprint"])
    return Network.of(Circuit.load(path, graph), loaded)


def _record_of(circuit: Path) -> tuple[Results | None, Record | None]:
    """The results that a circuit belongs to, if it lies in their folder, and its record there."""
    folder = circuit.resolve().parent.parent
    if not (folder / RESULTS_FILE).is_file():
        return None, None
    results = Results.load(folder)
    name = circuit.resolve().relative_to(folder).as_posix()
    record = next((record for record in results if record.circuit == name), None)
    return results, record
