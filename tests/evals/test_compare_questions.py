"""Questions of a comparison: their answers in the records, and in the report."""

import json
from dataclasses import dataclass, replace
from typing import Any

import pytest

from sparse_lens.circuit import Circuit
from sparse_lens.cost import metered
from sparse_lens.evals.compare import Comparison, compare
from sparse_lens.evals.harness.jobs import run_job
from sparse_lens.evals.metrics import measure
from sparse_lens.evals.question import Column, Question, registry
from sparse_lens.evals.questions import (
    DEFAULT_QUESTIONS,
    AdversarialSubset,
    Ascent,
    AttentionAgreement,
    Completeness,
    Families,
    FrozenNorms,
    InsideAgreement,
    KLOverPositions,
    Minimality,
    Necessity,
    PromptStability,
    RandomSubsets,
    RecoveredFraction,
    ResampledValues,
    StrictEdges,
    Transfer,
    WeightsAblated,
    adversarial_subset,
    answer_positions,
    by_its_edges,
    completeness,
    family,
    growing_interchange,
    kl_over_positions,
    minimality,
    necessity,
    partly_ablated,
    pattern_agreement,
    prompt_stability,
    real_positions,
    recovered_fraction,
    resampled,
    transfer,
    value_agreements,
    weights_ablated,
)
from sparse_lens.evals.records import Record
from sparse_lens.evals.report import report_html
from sparse_lens.evals.results import Results
from sparse_lens.graphs import ChannelGraph, ComponentGraph
from sparse_lens.target import Target
from tests.evals import toy_comparison as toy
from tests.evals.test_report import rows, text_of
from tests.evals.test_transfer_table import slow_differences
from tests.evals.toy_comparison import BUDGETS, ByIndex, Half
from tests.graphs.tiny import dense_model

QUESTIONS = (
    AdversarialSubset(steps=3, step_size=0.2, starts=1, draws=2),
    AttentionAgreement(),
    Completeness(draws=3, share=0.4),
    Families(resamples=2, disjoint=1),
    FrozenNorms(),
    InsideAgreement(),
    KLOverPositions(),
    Minimality(nodes=4, dispensable_below=0.02),
    Necessity(draws=2),
    PromptStability(resamples=2),
    RandomSubsets(draws=3, share=0.4),
    RecoveredFraction(),
    ResampledValues(draws=2),
    StrictEdges(),
    Transfer(),
    WeightsAblated(draws=2),
)
"""All that are ours."""

SEED = 3


def expected_answers(bound: Any, circuit: Circuit, method: Half) -> dict[str, dict[str, Any]]:
    """The answers as scripts get them from the functions."""
    task = toy.task()
    held_out = task.split("held_out")
    common: dict[str, Any] = {"seed": SEED}
    scores = completeness(bound, circuit, held_out, share=0.4, draws=3, **common).scores
    kl = kl_over_positions(bound, circuit, held_out)
    alone = minimality(bound, circuit, held_out, dispensable_below=0.02, max_nodes=4, **common)
    random = necessity(bound, circuit, held_out, draws=2, **common).random
    stable = prompt_stability(
        method, bound, task, resamples=2, circuit_of=lambda discovery: discovery.circuit, **common
    )
    subsets = partly_ablated(bound, circuit, held_out, share=0.4, draws=3, **common)
    recovered = recovered_fraction(bound, circuit, held_out)
    ascent = Ascent(steps=3, step_size=0.2, starts=1)
    adversary = adversarial_subset(bound, circuit, held_out, ascent=ascent, draws=2, **common)
    patterns = pattern_agreement(bound, circuit, held_out)
    again = family(method, bound, task, circuit, resamples=2, **common)
    where = {"answer": answer_positions(held_out), "all": real_positions(held_out)}
    inside: dict[str, Any] = {}
    for key, agreement in value_agreements(bound, circuit, held_out, where).items():
        inside[f"fvu_{key}"], inside[f"median_fvu_{key}"] = agreement.fvu, agreement.median_fvu
        inside[f"sites_{key}"] = agreement.by_site
        inside[f"constant_nodes_{key}"] = agreement.n_constant
    if circuit.is_node_circuit:
        steps = growing_interchange(bound, circuit, held_out)
        inside["interchanged_up_to"] = [step.up_to for step in steps]
        for key in steps[0].metrics.means():
            inside[f"interchanged_{key}"] = [step.metrics.means()[key] for step in steps]
    return {
        "adversary": {
            "n_nodes": [c.n_nodes for c in adversary.circuits],
            "n_edges": [c.n_edges for c in adversary.circuits],
            **adversary.worst.means(),
            "random_task_loss": [m.means()["task_loss"] for m in adversary.random],
            "random_accuracy": [m.means()["accuracy"] for m in adversary.random],
        },
        "attention-agreement": {
            "heads": [f"a{layer}.h{head}" for layer, head in patterns.heads],
            "distance": patterns.distance.mean(1).tolist(),
            "uniform_distance": patterns.uniform_distance.mean(1).tolist(),
            "same_top": patterns.same_top.float().mean(1).tolist(),
        },
        "completeness": {
            "incompleteness": float(scores.mean()), "worst_incompleteness": float(scores.max()),
        },
        "families": {
            "met_target": 2,
            "core": int(again.core.sum()),
            "contingent": int(again.contingent.sum()),
            "noise": int(again.noise.sum()),
            "core_share": again.core_share,
            "ious": list(again.ious),
        },
        "frozen-norms": measure(bound, circuit, held_out, freeze_norm_scales=True).means(),
        "inside-agreement": inside,
        "kl-over-positions": {"kl": kl.mean, "low": kl.low, "high": kl.high},
        "minimality": {
            "removed_nodes": len(alone.nodes),
            "dispensable_share": len(alone.dispensable) / len(alone.nodes),
        },
        "necessity": random.means(),
        "prompt-stability": {"met_target": 2, "ious": list(stable.ious)},
        "recovered-fraction": {
            "fraction": recovered.mean, "low": recovered.low, "high": recovered.high,
        },
        "resample": resampled(bound, circuit, held_out, draws=2, **common).means(),
        "strict-edges": (
            measure(bound, by_its_edges(circuit), held_out).means()
            if circuit.is_node_circuit
            else {}
        ),
        "subsets": {
            "n_nodes": [c.n_nodes for c in subsets.circuits],
            "n_edges": [c.n_edges for c in subsets.circuits],
            **subsets.means(),
        },
        "transfer": transfer(bound, circuit, task).train.means(),
        "weights-ablated": (
            weights_ablated(bound, circuit, held_out, draws=2, **common).means()
            if circuit.graph.kind == "channel"
            else {}
        ),
    }  # fmt: skip


@pytest.mark.parametrize("graph_of", [ChannelGraph.from_model, ComponentGraph.from_model])
def test_answers_are_those_of_the_functions(tmp_path, graph_of):
    model, task = toy.model(), toy.task()
    methods = {"nodes": Half(), "edges": Half(edges=True)}
    run: dict[str, Any] = {
        "graph": graph_of, "budgets": BUDGETS, "questions": QUESTIONS, "seeds": [SEED],
    }  # fmt: skip
    results = compare([model], [task], methods, out=tmp_path / "one", **run)
    assert {type(question) for question in QUESTIONS} == set(registry().values())
    graph = graph_of(model)
    bound = toy.bound(graph, model)
    for record in results:
        assert record.status == "done", record.error
        assert record.questions["subsets"] == {"type": "RandomSubsets", "draws": 3, "share": 0.4}
        circuit = Circuit.load(results.circuit_path(record), graph)
        expected = expected_answers(bound, circuit, methods[record.method])
        assert record.answers.keys() == expected.keys() == record.columns.keys()
        for name, answers in expected.items():
            assert record.answers[name].keys() == answers.keys()
            for key, value in answers.items():
                assert record.answers[name][key] == pytest.approx(value, abs=1e-6), (name, key)
    again = compare([model], [task], methods, out=tmp_path / "two", **run)
    assert [toy.without_durations(r) for r in again] == [toy.without_durations(r) for r in results]
    assert Results.load(tmp_path / "one").records == results.records


def test_what_one_question_draws_does_not_depend_on_the_others():
    def answers(*questions: Question) -> Any:
        (job,) = Comparison(
            [toy.model()], [toy.task()], [Half()], budgets=BUDGETS, questions=questions
        ).jobs()
        return run_job(job).record.answers

    together = answers(RandomSubsets(), Minimality(nodes=2))
    assert answers(Minimality(nodes=2), RandomSubsets()) == together
    assert answers(Minimality(nodes=2)) == {"minimality": together["minimality"]}


@pytest.mark.parametrize("graph_of", [ChannelGraph.from_model, ComponentGraph.from_model])
def test_completeness_against_a_slow_version_and_in_the_report(tmp_path, graph_of):
    model, task = toy.model(), toy.task()
    results = compare(
        [model], [task], {"nodes": Half()}, out=tmp_path, graph=graph_of, budgets=BUDGETS,
        questions=[Completeness(draws=3, share=0.4)], seeds=[3],
    )  # fmt: skip
    (record,) = results
    assert record.status == "done", record.error
    graph, held_out = graph_of(model), task.split("held_out")
    bound = toy.bound(graph, model)
    circuit = Circuit.load(results.circuit_path(record), graph)
    drawn = completeness(bound, circuit, held_out, share=0.4, draws=3, seed=3).removed
    assert any(drawn)
    scores = []
    for removed in drawn:
        gone = Circuit.from_node_names(graph, removed)
        of_circuit = slow_differences(bound, circuit - gone, held_out)
        of_model = slow_differences(bound, Circuit.full(graph) - gone, held_out)
        scores.append(abs(sum(of_circuit) - sum(of_model)) / len(held_out))
    answers = record.answers["completeness"]
    assert answers["incompleteness"] == pytest.approx(sum(scores) / 3, abs=1e-5)
    assert answers["worst_incompleteness"] == pytest.approx(max(scores), abs=1e-5)
    assert max(scores) > min(scores) > 0
    page = report_html(results)
    (row,) = rows(page, controls=True)
    assert row[-2:] == [f"{sum(scores) / 3:.3f}", f"{max(scores):.3f}"]
    assert "missing, worst Random parts of the circuit are removed" in text_of(page)


def test_an_unmet_target_is_asked_nothing_and_some_models_have_no_norms(tmp_path):
    run: dict[str, Any] = {"budgets": BUDGETS, "questions": [FrozenNorms(), Minimality(nodes=2)]}
    (record,) = compare(
        [toy.model()], [toy.task()], [ByIndex()], out=tmp_path / "unmet", target=Target(1e-9), **run
    )
    assert (record.status, record.answers, record.columns) == ("done", {}, {})
    assert list(record.questions) == ["frozen-norms", "minimality"]
    no_norms = dense_model(normalization_type=None)
    no_norms.reference_tokens = toy.model().reference_tokens  # type: ignore[assignment]
    results = compare([no_norms], [toy.task()], [Half()], out=tmp_path / "bare", **run)
    (record,) = results
    assert record.status == "done", record.error
    assert record.answers["frozen-norms"] == {}
    assert record.answers["minimality"]["removed_nodes"] == 2
    text = text_of(report_html(results))
    assert "spare" in text
    assert "frozen Norms divide" not in text, "a column without numbers is not shown"


def test_what_is_asked_by_default():
    (job,) = Comparison([toy.model()], [toy.task()], [ByIndex()]).jobs()
    assert list(job.blank().questions) == ["resample", "frozen-norms", "subsets", "minimality"]
    assert job.settings.named_questions == dict(
        zip(job.blank().questions, DEFAULT_QUESTIONS, strict=True)
    )


@dataclass(frozen=True)
class LongestPrompt(Question):
    """A question that nobody has installed."""

    plus: int = 0

    def ask(self, subject):
        lengths = subject.prompts.answer_positions + 1
        return {"lengths": tuple((lengths + self.plus).tolist())}

    @property
    def columns(self):
        return (
            Column("lengths", "tokens", "<in> prompts", "mine & yours", "Of <prompts>.", ",.0f"),
            Column("lengths", "most", "the same", "mine & yours", form=",.0f", over_draws="max"),
            Column("lengths", "fewest", "the same", "mine & yours", form=",.0f", over_draws="min"),
        )


def test_a_question_of_a_script_is_shown_from_the_records_alone(tmp_path):
    """The report needs neither its class nor its package."""
    questions = {"length": LongestPrompt(), "longer": LongestPrompt(plus=10)}
    results = compare(
        [toy.model()], [toy.task()], [Half()], out=tmp_path, budgets=BUDGETS, questions=questions
    )
    (record,) = results
    lengths = (toy.task().split("held_out").answer_positions + 1).tolist()
    assert record.answers["length"]["lengths"] == lengths
    row = json.loads((tmp_path / "results.jsonl").read_text())
    row["questions"]["length"]["type"] = row["questions"]["longer"]["type"] = "Uninstalled"
    page = report_html(Results((Record.from_json(row),)))
    (cells,) = rows(page, controls=True)
    mean = sum(lengths) / len(lengths)
    shown = [mean, max(lengths), min(lengths), mean + 10, max(lengths) + 10, min(lengths) + 10]
    assert cells[-6:] == [f"{number:,.0f}" for number in shown]
    text = text_of(page)
    assert "tokens, most, fewest Of <prompts>." in text
    assert "mine & yours" in text
    assert "length(plus 0), longer(plus 10)" in text


@dataclass(frozen=True)
class AnswersWithTensors(Question):
    def ask(self, subject):
        return {"loss": subject.metrics.task_loss}


def test_a_question_that_cannot_be_answered_costs_no_other_answer_and_is_asked_again(tmp_path):
    asked = {"bad": AnswersWithTensors(), "spare": Minimality(nodes=2)}
    records = [
        compare(
            [toy.model()], [toy.task()], [Half()], out=tmp_path, budgets=BUDGETS, questions=asked
        )
        for _ in range(2)
    ]
    for results in records:
        (record,) = results
        assert results.failed == (record,)
        assert record.status == "done"
        assert record.answers.keys() == {"spare"}
        assert "the question 'bad' must answer with numbers" in record.question_errors["bad"]
    assert len((tmp_path / "results.jsonl").read_text().splitlines()) == 2
    page = text_of(report_html(records[0]))
    assert "1 question could not be answered" in page
    assert "What failed" in page


@dataclass(frozen=True)
class PassesFor(Question):
    """How many passes it takes to ask another question."""

    question: Question

    def ask(self, subject):
        with metered(subject.bound.model) as meter:
            self.question.ask(subject)
        return {"passes": meter.forward_passes}


def test_necessity_runs_no_random_circuit_that_was_measured(tmp_path):
    asked = {str(draws): PassesFor(Necessity(draws=draws)) for draws in (3, 4)}
    run: dict[str, Any] = {"budgets": BUDGETS, "questions": asked, "random_draws": 3}
    (record,) = compare([toy.model()], [toy.task()], [Half()], out=tmp_path, **run)
    assert record.answers == {"3": {"passes": 0}, "4": {"passes": 1}}


def test_meanings_of_questions_that_were_asked_differently():
    """Both are shown."""
    jobs = [
        Comparison(
            [toy.model()], [toy.task()], [Half()], seeds=[seed], budgets=BUDGETS,
            questions=[Minimality(dispensable_below=below)],
        ).jobs()[0]
        for seed, below in enumerate((0.125, 0.25))
    ]  # fmt: skip
    records = [run_job(job).record for job in jobs]
    records = [replace(record, order=i) for i, record in enumerate(records)]
    text = text_of(report_html(Results(tuple(records))))
    assert "less than 0.125 nats" in text
    assert "less than 0.25 nats" in text
