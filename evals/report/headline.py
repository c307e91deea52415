"""The top of the report: which model needs how many edges, and what was measured how."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

from sparse_lens.evals.intervals import geometric_mean
from sparse_lens.evals.model_families import family_ratios
from sparse_lens.evals.records import Record
from sparse_lens.evals.report.cells import Cells, shared
from sparse_lens.evals.report.evidence_section import evidence_section
from sparse_lens.evals.summary import (
    RANDOM,
    MeanSize,
    Ratio,
    Setting,
    Summary,
    over_seeds,
    over_tasks,
    pretraining_sentence,
)
from sparse_lens.evals.wording import counted, three_digits
from sparse_lens.plotting.theme import SERIES


def headline(cells: Cells, summary: Summary) -> str:
    """The result in words, and a card for every model by each method."""
    parts = [f"<h1>{escape(_title(cells, summary))}</h1>"]
    if cells.claimed.records:
        parts.append(f'<p class="soft">{_subtitle(cells.claimed)}</p>')
    losses = pretraining_sentence(summary.models)
    if losses:
        parts.append(f'<p class="soft">{escape(losses)}</p>')
    for ratio in family_ratios(cells.records, summary):
        parts.append(f"<p>{escape(ratio.sentence)}</p>")
    parts.append(evidence_section(cells, summary))
    for setting in cells.settings:
        if setting.method == RANDOM and len(cells.settings) > 1:
            continue
        means = [mean for mean in summary.means if mean.setting == setting]
        ratios = [ratio for ratio in summary.ratios if ratio.setting == setting]
        if means:
            models = cells.claimed.models
            cards = "".join(_card(cells, model, means, ratios) for model in models)
            name = escape(cells.setting_name(setting))
            sizes = "Nodes" if means[0].unit == "nodes" else "Nodes and edges"
            parts.append(f'<h2>{sizes} a task, by {name}</h2><div class="cards">{cards}</div>')
    if summary.means:
        parts.append(f'<p class="note wide">{_how_counted(cells, summary)}</p>')
    if not summary.ratios:
        parts += [f'<p class="warn">{escape(line)}</p>' for line in summary.statements]
    if summary.failure_words:
        parts.append(f'<p class="warn">{escape(summary.failure_words)}</p>')
    return "\n".join(parts)


def _title(cells: Cells, summary: Summary) -> str:
    """Sizes of the method that needs the fewest edges.

    One whose edges are implied by its nodes has none to compare, and is taken where there is no
    other.
    """
    by_setting: dict[Setting, list[MeanSize]] = {}
    for mean in summary.means:
        if mean.setting.method != RANDOM or len(cells.settings) == 1:
            by_setting.setdefault(mean.setting, []).append(mean)
    if not by_setting:
        return "Circuits compared"
    in_edges = [setting for setting, means in by_setting.items() if means[0].unit == "edges"]
    overall = {
        setting: geometric_mean([mean.edges for mean in by_setting[setting]])
        for setting in in_edges or by_setting
    }
    best = min(overall, key=overall.__getitem__)
    sizes = []
    for model in cells.models:
        means = [mean for mean in by_setting[best] if mean.model == model]
        if not means:
            continue
        nodes, edges = _over_seeds(means)
        first, later = f"{nodes} nodes and {edges} edges", f"{nodes} and {edges}"
        if not in_edges:
            first, later = f"{nodes} nodes", nodes
        sizes.append(f"{model} {later}" if sizes else f"{model} needs {first} a task")
    method = f" ({cells.setting_name(best)})" if len(by_setting) > 1 else ""
    return ", ".join(sizes) + method


def _subtitle(cells: Cells) -> str:
    records = cells.records
    targets = shared([record.target_words for record in records])
    n_seeds = len({record.seed for record in records if not record.deterministic})
    return (
        f"Smallest circuits that meet a target ({escape(targets)}), for "
        f"{counted(len(cells.tasks), 'task')}, {counted(len(cells.models), 'model')}, "
        f"{counted(len(cells.settings), 'method')} and "
        f"{counted(n_seeds, 'seed') if n_seeds else 'no randomness'}; measured on prompts that "
        "no circuit was chosen on. The task loss is two-way: the cross-entropy of the answer "
        "against its distractor alone, in nats a prompt, as if there were no other tokens; "
        "guessing between the two has 0.69."
    )


def _card(cells: Cells, model: str, means: Sequence[MeanSize], ratios: Sequence[Ratio]) -> str:
    of_model = [mean for mean in means if mean.model == model]
    name = f"<div>{_chip(cells.colour(model))}{escape(model)}</div>"
    if not of_model:
        return f'<div class="card">{name}<p class="note">no result</p></div>'
    nodes, edges = _over_seeds(of_model)
    whole = of_model[0]
    unit = whole.unit
    by_seed = [mean.nodes if unit == "nodes" else mean.edges for mean in of_model]
    lines = [f"of {whole.graph_nodes:,} nodes and {whole.graph_edges:,} edges"]
    if unit == "nodes":
        lines.append(f"all {edges} edges between them count")
    lines += [_ratio_line(ratio) for ratio in ratios if ratio.dense == model]
    if len(by_seed) > 1:
        low, high = three_digits(min(by_seed)), three_digits(max(by_seed))
        lines.append(f"{unit} over {len(by_seed)} seeds: {low} to {high}")
    for what, tasks in (
        (
            '<span class="mark">unmet</span>, counted as the full graph',
            [t for mean in of_model for t in mean.unmet],
        ),
        ("no edge, counted as one", [t for mean in of_model for t in mean.zero]),
        (
            '<span class="mark">missed</span> on held-out prompts, counted with its own size',
            [t for mean in of_model for t in mean.missed],
        ),
    ):
        if tasks:
            n_circuits = sum(len(mean.tasks) for mean in of_model)
            lines.append(f"{len(tasks)} of {n_circuits} {what}: {escape(shared(tasks))}")
    in_edges = "" if unit == "nodes" else f" {edges} <small>edges</small>"
    return (
        f'<div class="card">{name}'
        f'<div class="big">{nodes} <small>nodes</small>{in_edges}</div>'
        f'<div class="note">{"<br>".join(lines)}</div></div>'
    )


def _over_seeds(means: Sequence[MeanSize]) -> tuple[str, str]:
    """Nodes and edges of one model and method, as geometric means over seeds."""
    nodes = geometric_mean([mean.nodes for mean in means])
    edges = geometric_mean([mean.edges for mean in means])
    return three_digits(nodes), three_digits(edges)


def _ratio_line(ratio: Ratio) -> str:
    return (
        f"<b>{ratio.spread.mean:.3g} times the {ratio.unit} of {escape(ratio.sparse)}</b> "
        f"({over_tasks(ratio)}; {over_seeds(ratio)})"
    )


EDGE_MEANS = {
    "channel": (
        "A node of the channel graph is one channel of the residual stream, of a head's query, key "
        "or value, or of an MLP; an edge is a weight that is not zero between two of them."
    ),
    "component": (
        "A node of the component graph is the embedding, a head or an MLP; an edge goes from one "
        "of these to a later head's query, key or value, to a later MLP or to the logits, which "
        "read what it writes to the residual stream. There a method that keeps nodes has no edges "
        "to set beside those that another method chose, and its circuits are compared by nodes."
    ),
}


def _how_counted(cells: Cells, summary: Summary) -> str:
    graphs = dict.fromkeys(setting.graph for setting in cells.settings)
    edges = " ".join(EDGE_MEANS[graph] for graph in graphs if graph in EDGE_MEANS)
    tasks = escape(", ".join(summary.common_tasks))
    return (
        f"Geometric means over the {counted(len(summary.common_tasks), 'task')} that every model "
        f"does by itself ({tasks}). {edges} A method that keeps nodes is counted with all "
        "edges between them. <b>Unmet</b>: no circuit met the target on the validation prompts, "
        "which counts as the full graph. <b>Missed</b>: the circuit met the target there, but not "
        "on the held-out prompts; it counts with its own size. A circuit without "
        "edges counts as one edge."
    )


def models_section(cells: Cells, summary: Summary) -> str:
    """The models side by side: sizes, pretraining losses, and what they can do by themselves."""
    return f'<h2>Models</h2><div class="card table">{_models_table(cells, summary)}</div>'


def measured(cells: Cells) -> str:
    """How it was measured: ablation, target, splits, seeds, methods, versions."""
    done = cells.done
    facts = {
        "Graph": shared([record.graph for record in done]),
        "Ablation": shared([_ablation(record.ablation) for record in done]),
        "Target": shared([record.target_words for record in done]),
        "Prompts": shared(
            [
                f"{r.n_train} to train, {r.n_validation} to choose, {r.n_held_out} held out"
                for r in done
            ]
        ),
        "Questions": shared([_questions(r.questions) for r in done if r.questions]),
        "Seeds": shared(sorted({record.seed for record in done if not record.deterministic})),
        "Deterministic": shared([record.method for record in done if record.deterministic]),
        "Search": "that of each method, the same for every model and task; every choice on train "
        "and validation prompts",
        "Device": shared([record.device for record in done]),
        "Versions": shared([_pairs(record.versions) for record in done]),
    }
    listed = "".join(
        f"<dt>{name}</dt><dd>{escape(text)}</dd>" for name, text in facts.items() if text
    )
    methods = "".join(
        f"<dt>{escape(cells.setting_name(setting))}</dt><dd><code>"
        f"{escape(_pairs(_first(done, setting).hyperparameters))}</code></dd>"
        for setting in cells.settings
    )
    return (
        f'<h2>How it was measured</h2><div class="card"><dl>{listed}</dl>'
        f"<details><summary>Fields of the methods</summary><dl>{methods}</dl></details></div>"
    )


def _models_table(cells: Cells, summary: Summary) -> str:
    rows = []
    for model in summary.models:
        record = next(r for r in cells.done if r.model == model.model)
        loss = model.pretraining_loss
        cannot = f"; not {escape(', '.join(model.cannot_do))}" if model.cannot_do else ""
        total = len(model.can_do) + len(model.cannot_do)
        rows.append(
            f'<tr><td class="text">{_chip(cells.colour(model.model))}{escape(model.model)}</td>'
            f"<td>{model.n_parameters:,}</td><td>{model.nonzero_fraction:.1%}</td>"
            f"<td>{'unknown' if loss is None else f'{loss:.3f}'}</td>"
            f"<td>{record.graph_nodes:,}</td><td>{record.graph_edges:,}</td>"
            f'<td class="text">{len(model.can_do)} of {total}{cannot}</td></tr>'
        )
    return (
        '<table><thead><tr><th class="text">Model</th><th>Parameters</th>'
        "<th>Weights not zero</th>"
        '<th title="nats a token on held-out pretraining text">Pretraining loss</th>'
        '<th>Nodes</th><th>Edges</th><th class="text" '
        'title="judged on the validation prompts">Tasks it can do by itself</th></tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table>"
    )


def _first(records: Iterable[Record], setting: Setting) -> Record:
    return next(record for record in records if Setting.of(record) == setting)


def _questions(questions: Mapping[str, Mapping[str, Any]]) -> str:
    return ", ".join(f"{name}({_fields(fields)})" for name, fields in questions.items())


def _ablation(ablation: Mapping[str, Any]) -> str:
    fields = {name: value for name, value in ablation.items() if value}
    return f"{ablation['type']}({_fields(fields)})"


def _fields(described: Mapping[str, Any]) -> str:
    """Of a dataclass, without its type."""
    return _pairs({name: value for name, value in described.items() if name != "type"})


def _pairs(values: Mapping[str, Any]) -> str:
    texts = {
        name: value if isinstance(value, str) else json.dumps(value)
        for name, value in values.items()
    }
    return ", ".join(f"{name} {text}" for name, text in texts.items())


def _chip(colour: int) -> str:
    return f'<i class="chip" style="background:{SERIES[colour % len(SERIES)]}"></i>'
