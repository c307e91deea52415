"""What must not solve a task: a constant, an n-gram model, and memory of the training text."""

import numpy as np
import pytest
import torch

from sparse_lens.evals import tasks
from sparse_lens.evals.tasks import NGramModel, constant_answer_accuracy, shared_suffixes
from sparse_lens.models import zoo
from sparse_lens.models.tokenizer import load_tokenizer
from sparse_lens.task import SPLITS, Prompts
from sparse_lens.training.corpus import build_corpus
from sparse_lens.training.grammar import GRAMMAR_IDENTIFIERS
from sparse_lens.training.presets import PRESETS
from tests.evals.task_texts import PAIRED

# Two of them are refused by the tokenizer of the embedded models.
REFUSED = ("final_kwarg", "enumerate_range")
CARRIED = tuple(name for name in PAIRED if name not in REFUSED)


def prompts_of(clean, answers, distractors, lengths=None) -> Prompts:
    clean = torch.tensor(clean)
    return Prompts(
        clean=clean,
        corrupted=clean,
        answers=torch.tensor(answers),
        distractors=None if distractors is None else torch.tensor(distractors),
        lengths=None if lengths is None else torch.tensor(lengths),
    )


@pytest.mark.parametrize("name", PAIRED)
def test_a_constant_answer_scores_one_half_on_every_split(name, tokenizer):
    task = tasks.build(name, tokenizer)
    for split in SPLITS:
        assert constant_answer_accuracy(task.split(split)) == 0.5


def test_a_constant_answer_scores_the_majority():
    rows = [[0]] * 4
    assert constant_answer_accuracy(prompts_of(rows, [1, 1, 1, 2], [2, 2, 2, 1])) == 0.75
    assert constant_answer_accuracy(prompts_of(rows, [1, 2, 3, 4], [2, 1, 4, 3])) == 0.5
    # Four questions that are asked once each can be learnt by heart.
    assert constant_answer_accuracy(prompts_of(rows, [1, 2, 3, 4], [5, 6, 7, 8])) == 1.0


def test_a_constant_answer_out_of_sets():
    rows = [[0]] * 4
    sets = [[1, 3], [3, 1], [1, 3], [2, 4]]
    others = [[2, 4], [4, 2], [2, 4], [3, 1]]
    assert constant_answer_accuracy(prompts_of(rows, sets, others)) == 0.75


def test_a_constant_answer_needs_candidates():
    with pytest.raises(ValueError, match="two candidates"):
        constant_answer_accuracy(prompts_of([[0]], [1], None))


def test_a_set_is_one_candidate_however_it_is_filled_up():
    rows = [[0]] * 2
    assert constant_answer_accuracy(prompts_of(rows, [[1, 3, 1], [2, 2, 2]], [[2], [1]])) == 1.0
    sets, others = [[1, 3, 1], [2, 2, 2]], [[2, 2], [3, 1]]
    assert constant_answer_accuracy(prompts_of(rows, sets, others)) == 0.5


def slow_score(stream: list[int], context: list[int], token: int) -> float:
    """Stupid back-off by counting with slices."""
    for used in range(len(context), -1, -1):
        suffix = context[len(context) - used :]
        grams = [stream[i : i + used + 1] for i in range(len(stream) - used)]
        seen = grams.count([*suffix, token])
        if seen:
            starts = range(len(stream) - used + 1)
            before = sum(stream[i : i + used] == suffix for i in starts) if used else len(stream)
            return 0.4 ** (len(context) - used) * seen / before
    return 0.0


@pytest.mark.parametrize("order", [1, 2, 3, 5])
def test_the_ngram_model_counts_right(order):
    rng = np.random.default_rng(0)
    stream = rng.integers(0, 4, size=300)
    model = NGramModel(torch.tensor(stream), order=order)
    # Token 4 never occurs, and -1 stands where the prompt has not begun.
    contexts = rng.integers(-1, 5, size=(60, order - 1))
    tokens = rng.integers(0, 5, size=60)
    rows = zip(contexts.tolist(), tokens.tolist(), strict=True)
    expected = [slow_score(stream.tolist(), context, token) for context, token in rows]
    np.testing.assert_allclose(model.scores(contexts, tokens), expected)


def test_ngram_accuracy_reads_the_last_tokens_before_the_padding():
    stream = torch.tensor([1, 2, 3, 9, 1, 2, 3, 9, 4, 2, 5])
    model = NGramModel(stream, order=3)
    prompts = prompts_of(
        clean=[[7, 1, 2, 0], [7, 4, 2, 0], [4, 0, 0, 0], [7, 7, 7, 7]],
        answers=[3, 5, 2, 7],
        distractors=[5, 3, 3, 8],
        lengths=[3, 3, 1, 4],
    )
    # Right by a trigram, right by a trigram, right by a bigram, and never seen: a tie.
    assert model.two_way_accuracy(prompts) == 3.5 / 4


def test_an_ngram_model_refuses_what_it_cannot_compare():
    model = NGramModel(torch.arange(10), order=2)
    with pytest.raises(ValueError, match="one answer with one distractor"):
        model.two_way_accuracy(prompts_of([[0]], [1], None))
    with pytest.raises(ValueError, match="one answer with one distractor"):
        model.two_way_accuracy(prompts_of([[0]], [[1, 2]], [[3, 4]]))
    with pytest.raises(ValueError, match="got 3; pass a longer text"):
        NGramModel(torch.arange(3), order=5)


def test_shared_suffixes_finds_what_a_plain_search_finds():
    generator = torch.Generator().manual_seed(0)
    stream = torch.randint(0, 3, (400,), generator=generator)
    clean = torch.randint(0, 3, (50, 9), generator=generator)
    clean[7, 0:6] = stream[100:106]
    clean[8, 3:9] = stream[-6:]
    lengths = torch.full((50,), 9)
    lengths[7] = 6
    windows = [stream[i : i + 6].tolist() for i in range(395)]
    expected = [
        row
        for row, length in enumerate(lengths.tolist())
        if clean[row, length - 6 : length].tolist() in windows
    ]
    assert {7, 8} < set(expected) < set(range(50))
    prompts = prompts_of(clean.tolist(), [0] * 50, [1] * 50, lengths.tolist())
    assert shared_suffixes(prompts, stream, length=6).tolist() == expected


def test_shared_suffixes_needs_long_enough_prompts():
    prompts = prompts_of([[1, 2, 3]], [4], [5])
    with pytest.raises(ValueError, match="3 tokens, fewer than length=12"):
        shared_suffixes(prompts, torch.arange(100))
    assert shared_suffixes(prompts, torch.arange(2), length=3).tolist() == []


@pytest.fixture(scope="module")
def trained():
    """The tokenizer that the embedded models use, and the text that they are trained on."""
    tokenizer = load_tokenizer(zoo.resolve("py-sparse"))
    share = PRESETS["py-sparse"].training.grammar_share
    return tokenizer, build_corpus(tokenizer, grammar_share=share).train


@pytest.fixture(scope="module")
def trained_ngrams(trained):
    return NGramModel(trained[1])


@pytest.mark.slow
def test_no_prompt_ends_as_the_training_text_does(trained):
    """One search for the ends of all prompts: the text has 21 million tokens."""
    tokenizer, stream = trained
    ends, owners = [], []
    for name in CARRIED:
        task = tasks.build(name, tokenizer)
        for split in SPLITS:
            prompts = task.split(split)
            stops = (prompts.answer_positions + 1).tolist()
            rows = zip(prompts.clean.tolist(), stops, strict=True)
            ends += [row[stop - 12 : stop] for row, stop in rows]
            owners += [(name, split)] * len(prompts)
    assert {len(end) for end in ends} == {12}
    planted = stream[1000:1012].tolist()
    found = shared_suffixes(
        prompts_of([*ends, planted], [0] * (len(ends) + 1), [1] * (len(ends) + 1)), stream
    )
    assert [owners[i] for i in found.tolist()[:-1]] == []
    assert found.tolist()[-1] == len(ends), "what does stand there is found"


@pytest.mark.slow
def test_refusals_are_those_of_the_tokenizer(trained):
    problems = tasks.validate(trained[0], "python")
    assert tuple(name for name, problem in problems.items() if problem is not None) == REFUSED


@pytest.mark.parametrize("name", REFUSED)
def test_an_ngram_model_of_the_same_prompts_does_not_solve_it(name, tokenizer):
    """It has seen the constructs, with the same names, and their answers."""
    seen, asked = (
        tasks.build(name, tokenizer, n_train=400, n_validation=0, n_held_out=0, seed=seed).train
        for seed in (0, 1)
    )
    stream = []
    assert seen.lengths is not None
    for tokens, length, answer in zip(seen.clean, seen.lengths, seen.answers, strict=True):
        stream += [*tokens[:length].tolist(), int(answer)]
    assert 0.4 < NGramModel(torch.tensor(stream)).two_way_accuracy(asked) < 0.6
    # The same model, when it sees far enough, does: so it is the distance that keeps it from it.
    assert NGramModel(torch.tensor(stream), order=12).two_way_accuracy(seen) > 0.9


@pytest.mark.slow
@pytest.mark.parametrize("name", CARRIED)
def test_an_ngram_model_of_the_training_text_does_not_solve_it(name, trained, trained_ngrams):
    task = tasks.build(name, trained[0], n_train=256, n_validation=256, n_held_out=256)
    for split in SPLITS:
        assert trained_ngrams.two_way_accuracy(task.split(split)) < 0.6


def test_identifiers_are_not_those_of_the_training_grammar():
    ours = {name for split in SPLITS for name in tasks.IDENTIFIERS.of(split)}
    theirs = {part for name in GRAMMAR_IDENTIFIERS for part in name.lower().split("_")}
    assert not ours & theirs
