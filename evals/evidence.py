"""What speaks for and against the circuits that a summary counts, from their records' answers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from sparse_lens.evals.counting import CAN_DO_LOSS
from sparse_lens.evals.labels import setting_of
from sparse_lens.evals.records import Record
from sparse_lens.evals.summary import RANDOM, Setting, Summary


@dataclass(frozen=True)
class Check:
    """A condition under which a circuit should still meet its target."""

    heading: str
    words: str
    """After "meet the target"."""


HELD_OUT = Check("held-out", "on prompts that no circuit was chosen on")


@dataclass(frozen=True)
class Tally:
    """How many circuits met their target under a check, of those it was asked of."""

    check: Check
    passed: int
    asked: int

    @property
    def share(self) -> float:
        """Of the circuits asked, those that passed."""
        return self.passed / self.asked


@dataclass(frozen=True)
class Evidence:
    """About circuits that met their target on validation prompts; unmet targets have none."""

    circuits: tuple[Record, ...]
    n_targets: int
    """Circuits searched for: those found, and the unmet targets."""

    outcomes: tuple[Tally, ...]
    """Of the checks that were asked of any circuit: held-out prompts, then those of questions."""

    @property
    def kl(self) -> tuple[float, ...]:
        """KL(full model || circuit) of each circuit on held-out prompts, in nats."""
        return tuple(record.chosen.kl for record in self.circuits)

    @property
    def empty_kl(self) -> tuple[float, ...]:
        """The same of the empty circuits beside them."""
        return tuple(m.kl for record in self.circuits for m in record.of_kind("empty"))

    @property
    def same_top_token(self) -> tuple[float, ...]:
        """The share of held-out prompts where circuit and model have the same top token."""
        return tuple(record.chosen.exact_match for record in self.circuits)


def counted_records(records: Iterable[Record], summary: Summary) -> tuple[Record, ...]:
    """The records that the summary's mean sizes count, without those of the random control."""
    counted = {
        (mean.setting, mean.model, mean.seed, task)
        for mean in summary.means
        for task in mean.tasks
        if mean.setting.method != RANDOM
    }
    return tuple(
        record
        for record in records
        if record.status == "done"
        and (Setting.of(record), record.model, record.seed, record.task) in counted
    )


def evidence(records: Sequence[Record]) -> Evidence:
    """The outcomes of all checks that were asked of some jobs' circuits."""
    circuits = tuple(record for record in records if record.met_on_validation)
    results: dict[Check, list[bool]] = {}
    for record in circuits:
        for check, passed in _checks(record):
            results.setdefault(check, []).append(passed)
    outcomes = [Tally(check, sum(passed), len(passed)) for check, passed in results.items()]
    return Evidence(circuits, len(records), tuple(outcomes))


def evidence_sentences(evidence: Evidence) -> list[str]:
    """The outcomes in words, the most disappointing first, and then how faithful the circuits are.

    Empty where no circuit met its target.
    """
    n_circuits = len(evidence.circuits)
    if not n_circuits:
        return []
    sentences = [
        f"{outcome.passed} of {outcome.asked} circuits meet the target {outcome.check.words}"
        + (f": {1 - outcome.share:.0%} missed." if outcome.check is HELD_OUT else ".")
        for outcome in sorted(evidence.outcomes, key=lambda outcome: outcome.share)
    ]
    n_unmet = evidence.n_targets - n_circuits
    if n_unmet:
        sentences.append(f"{n_unmet} of {evidence.n_targets} targets were met by no circuit.")
    kl = f"KL(full model || circuit) is {_range(evidence.kl, '.2g')} nats"
    if evidence.empty_kl:
        kl += f", where the empty circuit has {_range(evidence.empty_kl, '.2g')}"
    return [
        *sentences,
        f"{kl}; the most likely token is the model's on {_range(evidence.same_top_token, '.0%')} "
        "of the held-out prompts. The target asks for the answer against its distractor only, not "
        "for the model's predictions.",
    ]


def _range(values: Sequence[float], form: str) -> str:
    low, high = format(min(values), form), format(max(values), form)
    return low if low == high else f"{low} to {high}"


def _checks(record: Record) -> Iterator[tuple[Check, bool]]:
    """What a record's circuit was checked for, and whether it meets its target so."""
    yield HELD_OUT, record.met_on_held_out
    for question, columns in record.columns.items():
        for column in columns:
            losses = record.numbers(question, column.answer)
            if column.target_words and losses:
                check = Check(
                    question.replace("-", " "), column.target_words + setting_of(question)
                )
                yield check, column.aggregate(losses) <= (record.target_loss or CAN_DO_LOSS)
