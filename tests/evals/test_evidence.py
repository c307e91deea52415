"""What circuits withstand, counted from made-up answers."""

from dataclasses import replace

import pytest

from sparse_lens.evals.evidence import counted_records, evidence, evidence_sentences
from sparse_lens.evals.records import Record
from sparse_lens.evals.summary import summarize
from tests.evals import toy_records

JOB = ("sparse<1>", "for_while", "node-pruning")


def answered(seed: int, resample: list[float], frozen: float, subsets: list[float]) -> Record:
    """With the target of 0.145 nats met on held-out prompts for seed 0 alone."""
    answers = {
        "resample": {"task_loss": resample},
        "frozen-norms": {"task_loss": frozen},
        "subsets": {"task_loss": subsets},
    }
    return replace(toy_records.questioned(*JOB, seed), answers=answers)


def test_counts_by_hand():
    """The mean over draws of other values, and every draw of subsets, must meet the target."""
    found = evidence(
        [
            answered(0, [0.10, 0.18], 0.2, [0.1, 0.14]),
            answered(1, [0.10, 0.20], 0.2, [0.1, 0.15]),
            toy_records.record(*JOB, 2),  # asked nothing
            toy_records.record("sparse<1>", "for_while", "random", 0),  # unmet
        ]
    )
    counts = {o.check.heading: (o.passed, o.asked) for o in found.outcomes}
    assert counts == {
        "held-out": (1, 3),
        "resample": (1, 2),
        "frozen norms": (0, 2),
        "subsets": (1, 2),
    }
    assert (len(found.circuits), found.n_targets) == (3, 4)


def test_sentences_begin_with_the_most_disappointing():
    records = [answered(seed, [0.3], 0.1, [0.1]) for seed in (0, 1)]
    sentences = evidence_sentences(evidence(records))
    assert sentences[0].startswith("0 of 2 circuits meet the target with other prompts' values")
    held_out = (
        "1 of 2 circuits meet the target on prompts that no circuit was chosen on: 50% missed."
    )
    assert sentences[1] == held_out
    assert [sentence.split()[:3] for sentence in sentences[2:4]] == [["2", "of", "2"]] * 2
    assert "is 0.28 to 0.3 nats, where the empty circuit has 5;" in sentences[-1]
    assert "the model's on 98% of the held-out prompts" in sentences[-1]


def test_unmet_targets_are_said():
    met = toy_records.record(*JOB, 0)
    unmet = toy_records.record("sparse<1>", "for_while", "random", 0)
    assert "1 of 2 targets were met by no circuit." in evidence_sentences(evidence([met, unmet]))
    assert evidence_sentences(evidence([unmet])) == []


@pytest.mark.parametrize("method", toy_records.METHODS)
def test_it_is_about_the_circuits_that_sizes_count(method: str):
    """Not about the control, nor about a seed that one model alone has."""
    records = (*toy_records.records(), toy_records.record(*JOB, 9))
    counted = counted_records(records, summarize(records))
    of_method = [record for record in counted if record.method == method]
    assert len(of_method) == {"random": 0, "node-pruning": 0}.get(method, 8)
