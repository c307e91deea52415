"""The top of the report: which model needs how many edges, and what was measured how."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

from sparse_lens.evals.intervals import geometric_mean
from sparse_lens.evals.records import Record
from sparse_lens.evals.report.cells import RANDOM, Cells, shared
from sparse_lens.evals.summary import MeanSize, Ratio, Setting, Summary, pretraining_sentence
from sparse_lens.evals.wording import counted
from sparse_lens.plotting.theme import SERIES


def headline(cells: Cells, summary: Summary) -> str:
    """The result in words, and a card for every model by each method."""
    parts = [
        f"<h1>{escape(_title(cells, summary))}</h1>",
        f'<p class="soft">{_subtitle(cells)}</p>',
    ]
    losses = pretraining_sentence(summary.models)
    if losses:
        parts.append(f'<p class="soft">{escape(losses)}</p>')
    for setting in cells.settings:
        if setting.method == RANDOM and len(cells.settings) > 1:
            continue
        means = [mean for mean in summary.means if mean.setting == setting]
        ratios = [ratio for ratio in summary.ratios if ratio.setting == setting]
        if means:
            cards = "".join(_card(cells, model, means, ratios) for model in cells.models)
            name = escape(cells.setting_name(setting))
            parts.append(f'<h2>Edges a task, by {name}</h2><div class="cards">{cards}</div>')
    if summary.means:
        parts.append(f'<p class="note wide">{_how_counted(summary)}</p>')
    if not summary.ratios:
        parts += [f'<p class="warn">{escape(line)}</p>' for line in summary.statements]
    if summary.n_failed:
        parts.append(
            f'<p class="warn">{counted(summary.n_failed, "job")} failed; '
            'see the <a href="#failed">errors</a>.</p>'
        )
    return "\n".join(parts)


def _title(cells: Cells, summary: Summary) -> str:
    """Of the method that needs the fewest edges."""
    by_setting: dict[Setting, dict[str, list[float]]] = {}
    for mean in summary.means:
        if mean.setting.method != RANDOM or len(cells.settings) == 1:
            by_model = by_setting.setdefault(mean.setting, {})
            by_model.setdefault(mean.model, []).append(mean.edges)
    if not by_setting:
        return "Circuits compared"
    overall = {
        setting: geometric_mean([count for counts in by_model.values() for count in counts])
        for setting, by_model in by_setting.items()
    }
    best = min(overall, key=overall.__getitem__)
    sizes = []
    for model in cells.models:
        if model in by_setting[best]:
            number = _three_digits(geometric_mean(by_setting[best][model]))
            sizes.append(f"{model} {number}" if sizes else f"{model} needs {number} edges a task")
    method = f" ({cells.setting_name(best)})" if len(by_setting) > 1 else ""
    return ", ".join(sizes) + method


def _subtitle(cells: Cells) -> str:
    records = cells.records
    targets = shared([record.target_loss for record in records])
    n_seeds = len({record.seed for record in records if not record.deterministic})
    return (
        f"Smallest circuits with a two-way loss of at most {escape(targets)} nats a prompt, for "
        f"{counted(len(cells.tasks), 'task')}, {counted(len(cells.models), 'model')}, "
        f"{counted(len(cells.settings), 'method')} and "
        f"{counted(n_seeds, 'seed') if n_seeds else 'no randomness'}; measured on prompts that "
        "no circuit was chosen on."
    )


def _card(cells: Cells, model: str, means: Sequence[MeanSize], ratios: Sequence[Ratio]) -> str:
    of_model = [mean for mean in means if mean.model == model]
    name = f"<div>{_chip(cells.colour(model))}{escape(model)}</div>"
    if not of_model:
        return f'<div class="card">{name}<p class="note">no result</p></div>'
    edges = [mean.edges for mean in of_model]
    lines = [_ratio_line(ratio) for ratio in ratios if ratio.dense == model]
    if len(edges) > 1:
        lines.append(f"seeds {_three_digits(min(edges))} to {_three_digits(max(edges))}")
    for what, tasks in (
        (
            '<span class="mark">target unmet</span>, counted as the full graph',
            [t for mean in of_model for t in mean.unmet],
        ),
        ("no edge, counted as one", [t for mean in of_model for t in mean.zero]),
        ("missed on held-out prompts", [t for mean in of_model for t in mean.unmet_on_held_out]),
    ):
        if tasks:
            lines.append(f"{what}: {escape(shared(tasks))}")
    return (
        f'<div class="card">{name}'
        f'<div class="big">{_three_digits(geometric_mean(edges))} <small>edges</small></div>'
        f'<div class="note">{"<br>".join(lines)}</div></div>'
    )


def _ratio_line(ratio: Ratio) -> str:
    spread = ratio.spread
    text = (
        f"<b>{spread.mean:.3g} times {escape(ratio.sparse)}</b> (95% over "
        f"{counted(len(ratio.by_task), 'task')}: {spread.low:.3g} to {spread.high:.3g}"
    )
    if len(ratio.by_seed) > 1:
        text += f"; seeds: {spread.minimum:.3g} to {spread.maximum:.3g}"
    return text + ")"


def _how_counted(summary: Summary) -> str:
    tasks = escape(", ".join(summary.common_tasks))
    return (
        f"Geometric means over the {counted(len(summary.common_tasks), 'task')} that every model "
        f"does by itself ({tasks}). An edge is a pair of kept nodes joined by a weight that is not "
        "zero. An unmet target counts as the full graph, no edge as one."
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
        "Target": shared([f"{record.target_loss} nats a prompt" for record in done]),
        "Prompts": shared(
            [
                f"{r.n_train} to train, {r.n_validation} to choose, {r.n_held_out} held out"
                for r in done
            ]
        ),
        "Questions": shared([_questions(r.questions) for r in done if r.questions]),
        "Seeds": shared(sorted({record.seed for record in done if not record.deterministic})),
        "Deterministic": shared([record.method for record in done if record.deterministic]),
        "Search": "the same for every model and task; every choice on the validation prompts",
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


def _three_digits(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
