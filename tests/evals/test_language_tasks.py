"""The tasks for dense language models, by what their prompts say."""

import ast
import re
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from sparse_lens.evals import tasks
from sparse_lens.evals.harness.sources import TaskSource
from sparse_lens.evals.tasks import (
    Contrast,
    PromptSpec,
    Splits,
    SplitSizes,
    constant_answer_accuracy,
)
from sparse_lens.evals.tasks.families.booleans import value as value_of
from sparse_lens.evals.tasks.families.names import MEN, WOMEN
from sparse_lens.task import SPLITS, Prompts
from tests.evals import toy_comparison as toy
from tests.evals import toy_tokenizers

SIZES: dict[str, Any] = {"n_train": 64, "n_validation": 48, "n_held_out": 64}
BOOLEANS = ("boolean_instruction", "boolean_few_shot")


@pytest.fixture(scope="module")
def english():
    return toy_tokenizers.english()


@pytest.fixture(scope="module")
def built(english):
    return {name: tasks.build(name, english, **SIZES) for name in tasks.names("language")}


@pytest.fixture(params=tasks.names("language"))
def task(request, built):
    return built[request.param]


def rows_of(prompts: Prompts, tokenizer) -> list[tuple[str, str, set[str], set[str]]]:
    """Clean and corrupted text, answers and distractors of each prompt."""
    assert prompts.distractors is not None
    assert prompts.lengths is not None
    found = []
    for row, length in enumerate(prompts.lengths.tolist()):
        sets = (
            {tokenizer.decode([token]) for token in tokens[row].reshape(-1).tolist()}
            for tokens in (prompts.answers, prompts.distractors)
        )
        clean, corrupted = (
            tokenizer.decode(tokens[row, :length]) for tokens in (prompts.clean, prompts.corrupted)
        )
        found.append((clean, corrupted, *sets))
    return found


def every_row(task, tokenizer):
    return [row for split in SPLITS for row in rows_of(task.split(split), tokenizer)]


def words(text: str) -> list[str]:
    return re.findall(r"\w+", text)


def test_sizes_count_prompts(task):
    assert [len(task.split(split)) for split in SPLITS] == [64, 48, 64]


def test_prompts_are_aligned_and_differ_in_few_tokens(task, english):
    limit = tasks.spec(task.name).deciding_tokens
    for split in SPLITS:
        prompts = task.split(split)
        differing = (prompts.clean != prompts.corrupted).sum(-1)
        assert differing.min() >= 1
        assert differing.max() <= limit
        for row, length in zip(prompts.clean, prompts.lengths, strict=True):
            assert (row[length:] == english.eos_token_id).all()
            assert (row[:length] != english.eos_token_id).all()


def test_no_prompt_twice(task, english):
    drawn = [clean for clean, *_ in every_row(task, english)]
    assert len(set(drawn)) == len(drawn)


def test_templates_are_disjoint_and_several(task):
    spec = tasks.spec(task.name)
    templates = [template for split in SPLITS for template in spec.templates(split)]
    assert len(set(templates)) == len(templates)
    assert all(len(spec.templates(split)) >= 3 for split in SPLITS)


def test_the_seed_decides(task, english):
    again = tasks.build(task.name, english, **SIZES)
    other = tasks.build(task.name, english, **SIZES, seed=1)
    for split in SPLITS:
        assert torch.equal(task.split(split).clean, again.split(split).clean)
        assert rows_of(task.split(split), english) != rows_of(other.split(split), english)


def test_indirect_object_is_the_name_that_occurs_once(built, english):
    everybody = set(WOMEN + MEN)
    orders = []
    for clean, corrupted, answers, distractors in every_row(built["indirect_object"], english):
        named = [word for word in words(clean) if word in everybody]
        once = [name for name in named if named.count(name) == 1]
        assert len(named) == 3
        assert answers == {f" {name}" for name in once}
        assert distractors == {f" {named[2]}"}
        assert named[2] in named[:2]
        orders.append("ABBA" if named[2] == named[1] else "BABA")
        strangers = [word for word in words(corrupted) if word in everybody]
        assert len(set(strangers)) == 3
        assert not set(strangers) & set(named)
        unnamed = [re.sub("|".join(everybody), "?", text) for text in (clean, corrupted)]
        assert unnamed[0] == unnamed[1]
    assert orders.count("ABBA") == orders.count("BABA")


def test_greater_than_splits_the_years_at_the_start(built, english):
    starts = set()
    for clean, corrupted, answers, distractors in every_row(built["greater_than"], english):
        [start], [other] = (re.findall(r"\d{4}", text) for text in (clean, corrupted))
        century = clean[-2:]
        assert corrupted == clean.replace(start, other)
        assert (start[:2], other) == (century, century + "01")
        assert all(int(century + ending) > int(start) for ending in answers)
        assert all(int(century + ending) <= int(start) for ending in distractors)
        assert answers | distractors == {f"{number:02}" for number in range(100)}
        starts.add(start)
    assert len(starts) > 50


def test_a_gendered_pronoun_is_that_of_the_name(built, english):
    for clean, corrupted, answers, distractors in every_row(built["gendered_pronoun"], english):
        [name] = set(words(clean)) - set(words(corrupted))
        [other] = set(words(corrupted)) - set(words(clean))
        assert (name in WOMEN, name in MEN) == (other in MEN, other in WOMEN)
        assert answers == {" she" if name in WOMEN else " he"}
        assert distractors == {" he" if name in WOMEN else " she"}


def test_men_and_women_are_different_names():
    assert len({*WOMEN, *MEN}) == len(WOMEN) + len(MEN)


def test_docstring_goes_on_with_the_first_parameter_not_described(built, english):
    for clean, corrupted, answers, distractors in every_row(built["docstring"], english):
        definitions = []
        for text in (clean, corrupted):
            tree = ast.parse(text + ' x"""\n')
            definitions += [n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef)]
        three, others = ([a.arg for a in d.args.args][1:4] for d in definitions)
        docstring = ast.get_docstring(definitions[0])
        described = re.findall(r"[:@]param (\w+):", docstring or "")
        assert 1 <= len(described) <= 2
        assert three[: len(described)] == described
        assert answers == {f" {three[len(described)]}"}
        assert distractors == {f" {name}" for name in three} - answers
        assert not set(others) & set(words(clean))
        assert corrupted == clean.replace(", ".join(three), ", ".join(others))


@pytest.mark.parametrize("name", BOOLEANS)
def test_boolean_answers_are_python_s(name, built, english):
    values = []
    for clean, corrupted, answers, distractors in every_row(built[name], english):
        value, other = (
            eval(text.splitlines()[-1].removesuffix(" is")) for text in (clean, corrupted)
        )
        assert answers == {f" {value}"}
        assert distractors == {f" {other}"}
        values.append(value)
    assert values.count(True) == values.count(False)


def test_few_shot_examples_are_right_and_ask_none_of_the_questions(built, english):
    asked = {row[0].splitlines()[-1] for row in every_row(built["boolean_few_shot"], english)}
    *examples, _ = every_row(built["boolean_few_shot"], english)[0][0].splitlines()
    pairs = [example.split(" is ") for example in examples]
    assert [str(eval(expression)) for expression, _ in pairs] == [value for _, value in pairs]
    assert sum(value == "True" for _, value in pairs) * 2 == len(pairs)
    assert not {f"{expression} is" for expression, _ in pairs} & asked


def test_the_two_boolean_tasks_ask_the_same(built, english):
    for split in SPLITS:
        one, other = (
            [[text.splitlines()[-1] for text in row[:2]] for row in rows_of(prompts, english)]
            for prompts in (built[name].split(split) for name in BOOLEANS)
        )
        assert one == other


@pytest.mark.parametrize("name", [*BOOLEANS, "gendered_pronoun", "indirect_object"])
def test_a_constant_answer_scores_one_half(name, built):
    for split in SPLITS:
        assert constant_answer_accuracy(built[name].split(split)) == 0.5


@pytest.mark.parametrize("name", tasks.names("language"))
def test_a_tokenizer_without_the_answers_is_refused(name, bytes_tokenizer):
    reason = rf"task '{name}'.*the answer '.*' is not one token but \["
    with pytest.raises(ValueError, match=reason):
        tasks.build(name, bytes_tokenizer)


def test_every_prompt_begins_with_the_tokenizer_s_token_if_asked(task):
    tokenizer = toy_tokenizers.english(bos=toy_tokenizers.END)
    begun = tasks.build(task.name, tokenizer, **SIZES, prepend_bos=True)
    for split in SPLITS:
        plain, prompts = task.split(split), begun.split(split)
        for tokens in (prompts.clean, prompts.corrupted):
            assert tokens[:, 0].tolist() == [tokenizer.bos_token_id] * len(prompts)
        assert torch.equal(prompts.clean[:, 1:], plain.clean)
        assert torch.equal(prompts.corrupted[:, 1:], plain.corrupted)
        assert torch.equal(prompts.answer_positions, plain.answer_positions + 1)


@pytest.mark.parametrize("prepend", [False, True])
def test_in_a_comparison_prompts_begin_as_the_model_s_do(prepend):
    tokenizer = toy_tokenizers.english(bos=toy_tokenizers.END)
    model = toy.model(vocab_size=len(tokenizer), block_size=32)
    model.tokenizer = tokenizer
    model.cfg.default_prepend_bos = prepend
    source = TaskSource.of("gendered_pronoun", SplitSizes(2, 2, 2), 0)
    prompts = source.load(model).train
    begun = [token == tokenizer.bos_token_id for token in prompts.clean[:, 0].tolist()]
    assert begun == [prepend, prepend]


def test_a_tokenizer_with_nothing_to_begin_with_is_refused(english):
    with pytest.raises(ValueError, match="prepend_bos=True takes a tokenizer with a token"):
        tasks.build("gendered_pronoun", english, prepend_bos=True)


def own_spec(contrast: Contrast, **changes) -> PromptSpec:
    return PromptSpec(
        name="mine",
        question="Which?",
        statements=Splits(train=("a",), validation=("b",), held_out=("c",)),
        fill=lambda rng, template: (contrast,),
        **changes,
    )


def build_one(spec: PromptSpec, tokenizer):
    return tasks.build(spec, tokenizer, n_train=1, n_validation=0, n_held_out=0)


MARY = "So Mary is a really great friend, isn't"
JOHN = MARY.replace("Mary", "John")


def test_sets_of_answers_are_kept(english):
    spec = own_spec(Contrast(MARY, JOHN, (" she", " really"), (" he", "!", "?")))
    found = rows_of(build_one(spec, english).train, english)
    assert found == [(MARY, JOHN, {" she", " really"}, {" he", "!", "?"})]


def test_a_token_that_is_answer_and_distractor_is_refused(english):
    spec = own_spec(Contrast(MARY, JOHN, (" she",), (" he", " she")))
    with pytest.raises(ValueError, match="' she' and ' she' are the same token"):
        build_one(spec, english)


def test_a_word_that_is_part_of_a_token_is_refused(english):
    spec = own_spec(Contrast(MARY, JOHN, (" she",), (" he",), whole=(" Maryanne",)))
    with pytest.raises(ValueError, match="the word ' Maryanne' is not one token but"):
        build_one(spec, english)
    assert len(english("25")["input_ids"]) == 1
    spec = own_spec(Contrast(MARY, JOHN, (" she",), (" he",), whole=("25",)))
    with pytest.raises(ValueError, match="'25' is not a token of its own in the prompt"):
        build_one(spec, english)


def test_sizes_need_not_be_even_where_prompts_are_drawn_alone(english):
    task = tasks.build("docstring", english, n_train=3, n_validation=1, n_held_out=5)
    assert [len(task.split(split)) for split in SPLITS] == [3, 1, 5]
    with pytest.raises(ValueError, match=r"0 train prompts asked for.*pass a positive number"):
        tasks.build("docstring", english, n_train=0)
    with pytest.raises(ValueError, match=r"2 at a time.*pass a positive even number"):
        tasks.build("indirect_object", english, n_train=3)


def test_a_tokenizer_that_puts_a_space_before_every_text():
    """As Llama 2's: alone, ` she` becomes a space and a word, but after text it is one token."""
    backend = Tokenizer(models.BPE())
    backend.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    backend.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")
    backend.decoder = decoders.Metaspace(prepend_scheme="always")
    trainer = trainers.BpeTrainer(
        vocab_size=600, special_tokens=[toy_tokenizers.END], show_progress=False
    )
    texts = ["\n", *toy_tokenizers.prompts_of(("gendered_pronoun",))]
    backend.train_from_iterator(texts, trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token=toy_tokenizers.END)
    assert len(tokenizer(" she")["input_ids"]) == 2
    task = tasks.build("gendered_pronoun", tokenizer, **SIZES)
    answers = {str(tokenizer.decode([token])).strip() for token in task.train.answers.tolist()}
    assert answers == {"she", "he"}


@pytest.mark.parametrize("expression", ["x and True", "True or -1", "not 1 < 2"])
def test_what_is_no_boolean_expression_is_refused(expression: str) -> None:
    with pytest.raises(ValueError, match="has and, or, not and constants, got"):
        value_of(expression)
