"""The report's evidence and doubts: what the counted circuits withstand, in words and a table."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from statistics import fmean

from sparse_lens.evals.control_outcomes import control_records, control_sentence
from sparse_lens.evals.counting import edges_counted, nodes_counted
from sparse_lens.evals.evidence import (
    Check,
    Evidence,
    counted_records,
    evidence,
    evidence_sentences,
)
from sparse_lens.evals.intervals import geometric_mean
from sparse_lens.evals.records import Record
from sparse_lens.evals.report.cells import Cells
from sparse_lens.evals.summary import Setting, Summary
from sparse_lens.evals.wording import counted, three_digits


def evidence_section(cells: Cells, summary: Summary) -> str:
    """Sentences on all counted circuits and on controls, and a row for each method and model.

    Nothing where there is neither a circuit that all models' sizes are compared by, nor a control.
    """
    records, controls = counted_records(cells.records, summary), control_records(cells.records)
    everything = evidence(records)
    if not everything.circuits and not controls:
        return ""
    sentences = [*evidence_sentences(everything), control_sentence(controls)]
    listed = "".join(f"<li>{escape(sentence)}</li>" for sentence in sentences)
    beside = ""
    if controls:
        beside = (
            f"<h3>Controls, where there is nothing to find</h3>{_table(cells, controls)}"
            '<p class="note">Circuits found here are made by the search: those of real tasks and '
            "trained models mean something as far as they are smaller, or withstand more.</p>"
        )
    return (
        "<h2>Evidence and doubts</h2>"
        f"<p>{counted(len(everything.circuits), 'circuit')} met the target on validation prompts "
        f"and are counted here.</p><ul>{listed}</ul>"
        f"{_table(cells, records)}"
        '<p class="note">Circuits that meet the target under each check, of those asked; KL in '
        f"nats and most likely tokens as means over circuits, on held-out prompts.</p>{beside}"
    )


def _table(cells: Cells, records: Sequence[Record]) -> str:
    """A row for each method and model, and each task without a rule."""
    checks = [outcome.check for outcome in evidence(records).outcomes]
    by_row: dict[tuple[Setting, str], list[Record]] = {}
    for record in records:
        on_task = f" on {record.task}" if record.control == "task" else ""
        by_row.setdefault((Setting.of(record), f"{record.model}{on_task}"), []).append(record)
    rows = [
        _row(cells, setting, model, of_row, checks)
        for (setting, model), of_row in sorted(
            by_row.items(), key=lambda item: cells.settings.index(item[0][0])
        )
    ]
    headings = "".join(
        f'<th title="circuits that meet the target {escape(check.words)}">'
        f"{escape(check.heading)}</th>"
        for check in checks
    )
    return (
        '<div class="card table"><table><thead><tr><th class="text">Method</th>'
        '<th class="text">Model</th>'
        '<th title="geometric mean over tasks and seeds">nodes</th>'
        '<th title="geometric mean over tasks and seeds; none where they are implied by the '
        'nodes of a component graph">edges</th>'
        '<th title="circuits that met the target on validation prompts">validation</th>'
        f'{headings}<th title="KL(full || circuit), nats">KL</th>'
        '<th title="KL(full || empty circuit), nats">KL of empty</th>'
        '<th title="the same most likely token as the full model">top token</th></tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


def _row(
    cells: Cells, setting: Setting, model: str, records: list[Record], checks: list[Check]
) -> str:
    of_row = evidence(records)
    outcomes = {outcome.check: outcome for outcome in of_row.outcomes}
    edges = geometric_mean([edges_counted(record) for record in records])
    numbers = [
        three_digits(geometric_mean([nodes_counted(record) for record in records])),
        "-" if cells.unit(setting) == "nodes" else three_digits(edges),
        f"{len(of_row.circuits)} of {of_row.n_targets}",
    ]
    for check in checks:
        outcome = outcomes.get(check)
        numbers.append(f"{outcome.passed} of {outcome.asked}" if outcome else "-")
    numbers += _faithfulness(of_row)
    method = escape(cells.setting_name(setting))
    texts = f'<td class="text">{method}</td><td class="text">{escape(model)}</td>'
    return f"<tr>{texts}{''.join(f'<td>{number}</td>' for number in numbers)}</tr>"


def _faithfulness(of_row: Evidence) -> list[str]:
    """Mean KL, that of the empty circuit, and the share of the model's top tokens."""
    return [
        format(fmean(values), form) if values else "-"
        for values, form in (
            (of_row.kl, ".2f"),
            (of_row.empty_kl, ".2f"),
            (of_row.same_top_token, ".0%"),
        )
    ]
