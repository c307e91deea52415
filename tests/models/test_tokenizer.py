"""The tokenizer against a slow byte-pair encoder written here, and inside TransformerLens."""

import copy
import inspect
import json
from itertools import pairwise
from pathlib import Path

import pytest
import regex
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformer_lens import HookedTransformer, HookedTransformerConfig
from transformers import PreTrainedTokenizerFast

from sparse_lens.models.tokenizer import (
    load_tokenizer,
    make_pre_tokenizer,
    make_tokenizer,
    save_tokenizer,
)

END = "<|endoftext|>"
PATTERN = r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
TEXTS = [
    "def f(x):\n    return (x + 12345) // 7\n",
    "print(\"a\", 'b')\nitems.add(current)\n\n\n    values = [[1, 2], [3]]\n",
    "  leading,   inner and trailing   \n\t\tif x == 1_000:\r\n  pass  ",
    "naïve café Ünïcödé 漢字 🙂 ½ ٣٤٥ \u00a0nbsp\u2028line\u3000wide\x85nel",
    "a\x1cb\x1fc \x0b\x0c e\u0301 \u200b zero\ufeff width",
    "http://x.y//z\n/\n// ###\n\n+=  +=\n",
    "",
    " ",
    "\n",
    "\x00\x7f\x80\xff",
]


class SlowBPE:
    """Byte-pair encoding as GPT-2's reference states it, one merge at a time."""

    def __init__(self, vocabulary: dict[str, int], merges: list[tuple[str, str]]) -> None:
        self.vocabulary = vocabulary
        self.rank = {pair: rank for rank, pair in enumerate(merges)}
        plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
        others = [byte for byte in range(256) if byte not in plain]
        self.letter = {byte: chr(byte) for byte in plain}
        self.letter |= {byte: chr(256 + i) for i, byte in enumerate(others)}

    def encode(self, text: str) -> list[int]:
        ids = []
        pieces = [match.group() for match in regex.finditer(PATTERN, text)]
        assert "".join(pieces) == text
        for piece in pieces:
            parts = [self.letter[byte] for byte in piece.encode()]
            while True:
                pairs = [pair for pair in pairwise(parts) if pair in self.rank]
                if not pairs:
                    break
                left, right = min(pairs, key=self.rank.__getitem__)
                i = 0
                while i < len(parts) - 1:
                    if (parts[i], parts[i + 1]) == (left, right):
                        parts[i : i + 2] = [left + right]
                    i += 1
            ids += [self.vocabulary[part] for part in parts]
        return ids


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with encoder.json and vocab.bpe of 400 tokens, written without our own code."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = make_pre_tokenizer()
    trainer = trainers.BpeTrainer(
        vocab_size=399,
        show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    # The repeated words become tokens whatever the rest, which varies with Python's version.
    sources = [inspect.getsource(json), inspect.getsource(json.decoder), "def self " * 1000]
    backend.train_from_iterator(sources, trainer)
    folder = tmp_path_factory.mktemp("tokenizer")
    model = json.loads(backend.to_str())["model"]
    (folder / "encoder.json").write_text(json.dumps(model["vocab"]))
    lines = "\n".join(" ".join(merge) for merge in model["merges"])
    (folder / "vocab.bpe").write_text(f"#version: 0.2\n{lines}\n", encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def slow(trained: Path) -> SlowBPE:
    lines = (trained / "vocab.bpe").read_text(encoding="utf-8").split("\n")[1:-1]
    left_right = [tuple(line.split(" ")) for line in lines]
    return SlowBPE(json.loads((trained / "encoder.json").read_text()), left_right)  # type: ignore[arg-type]


@pytest.fixture
def model(trained: Path) -> HookedTransformer:
    cfg = HookedTransformerConfig(
        n_layers=1, d_model=8, n_ctx=64, d_head=4, d_vocab=400, act_fn="relu", seed=0,
        default_prepend_bos=False, device="cpu",
    )  # fmt: skip
    model = HookedTransformer(cfg)
    model.set_tokenizer(load_tokenizer(trained))
    return model


@pytest.mark.parametrize("text", TEXTS)
def test_ids_are_those_of_slow_byte_pair_encoding_and_decode_to_the_text(
    text: str, trained: Path, slow: SlowBPE
):
    tokenizer = load_tokenizer(trained)
    assert tokenizer(text)["input_ids"] == slow.encode(text)
    assert tokenizer.decode(slow.encode(text)) == text


def test_ids_of_long_source_agree(trained: Path, slow: SlowBPE):
    text = inspect.getsource(json.encoder)
    assert load_tokenizer(trained)(text)["input_ids"] == slow.encode(text)


def test_special_tokens_and_padding(trained: Path):
    tokenizer = load_tokenizer(trained)
    assert len(tokenizer) == tokenizer.vocab_size == 400
    ids = (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id)
    assert ids == (399, 399, 399)
    assert tokenizer.encode("") == []
    assert tokenizer(f"a{END}b")["input_ids"][1] == 399
    assert tokenizer.decode([399]) == END
    batch = tokenizer(["a", "a a a"], padding=True)
    assert batch["input_ids"][0][1:] == [399, 399]
    assert batch["attention_mask"] == [[1, 0, 0], [1, 1, 1]]


def test_end_of_text_keeps_the_id_that_the_files_give_it(tmp_path: Path):
    (tmp_path / "encoder.json").write_text(json.dumps({END: 0, "a": 1, "b": 2, "ab": 3}))
    (tmp_path / "vocab.bpe").write_text("a b")  # neither a version line nor a last line end
    tokenizer = load_tokenizer(tmp_path)
    assert tokenizer.eos_token_id == 0
    assert tokenizer(f"abb{END}a")["input_ids"] == [3, 2, 0, 1]
    assert tokenizer("a?b")["input_ids"] == [1, 0, 2]  # no letter: shown, not dropped


def test_windows_line_ends_are_no_part_of_merges(tmp_path: Path):
    (tmp_path / "encoder.json").write_text(json.dumps({"a": 0, "b": 1, "ab": 2}))
    (tmp_path / "vocab.bpe").write_bytes(b"#version: 0.2\r\na b\r\n")
    assert load_tokenizer(tmp_path)("ab")["input_ids"] == [2]


def test_save_and_load_give_the_same_tokenizer(trained: Path, tmp_path: Path):
    tokenizer = load_tokenizer(trained)
    save_tokenizer(tokenizer, tmp_path / "new" / "folder")
    again = load_tokenizer(tmp_path / "new" / "folder")
    assert again.backend_tokenizer.to_str() == tokenizer.backend_tokenizer.to_str()
    saved = (tmp_path / "new" / "folder" / "vocab.bpe").read_bytes()
    assert saved == (trained / "vocab.bpe").read_bytes()
    before = json.loads((trained / "encoder.json").read_text())
    after = json.loads((tmp_path / "new" / "folder" / "encoder.json").read_text())
    assert after == before | {END: 399}


def test_a_tokenizer_that_two_files_cannot_describe_is_not_saved(trained: Path, tmp_path: Path):
    other = Tokenizer(models.BPE(vocab={"a": 0, "b": 1, "ab": 2}, merges=[("a", "b")]))
    other.pre_tokenizer = pre_tokenizers.Whitespace()
    other.decoder = decoders.ByteLevel()
    with pytest.raises(ValueError, match="its own pre_tokenizer"):
        save_tokenizer(PreTrainedTokenizerFast(tokenizer_object=other), tmp_path)
    words = Tokenizer(models.WordLevel({"a": 0}, unk_token="a"))
    with pytest.raises(ValueError, match="WordLevel"):
        save_tokenizer(PreTrainedTokenizerFast(tokenizer_object=words), tmp_path)
    tokenizer = load_tokenizer(trained)
    tokenizer.add_special_tokens({"mask_token": "<mask>"})
    with pytest.raises(ValueError, match="added token '<mask>'"):
        save_tokenizer(tokenizer, tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("encoder.json", b"{", "encoder.json is not JSON"),
        ("encoder.json", b"[]", "one JSON object from tokens to ids"),
        ("encoder.json", b"{}", "one JSON object from tokens to ids"),
        ("encoder.json", b'{"a": "0"}', "one JSON object from tokens to ids"),
        ("encoder.json", b'{"a": 0, "b": 1, "ab": 1}', "'b' and 'ab' share id 1"),
        ("encoder.json", b'{"a": 0, "b": 1}', "merge 1, 'a' with 'b', needs 'ab'.*again"),
        ("vocab.bpe", b"#version: 0.2\na c\n", "needs 'c', which is not in the vocabulary"),
        ("vocab.bpe", b"#version: 0.2\na b\nabc\n", "line 3: expected two tokens.*'abc'"),
        ("vocab.bpe", b"\xff\xfe", "vocab.bpe is not UTF-8"),
        ("encoder.json", b"\xff\xfe", "encoder.json is not UTF-8"),
    ],
)
def test_malformed_files_are_named(tmp_path: Path, file: str, content: bytes, message: str):
    (tmp_path / "encoder.json").write_text('{"a": 0, "b": 1, "ab": 2}')
    (tmp_path / "vocab.bpe").write_text("#version: 0.2\na b\n")
    (tmp_path / file).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize("file", ["encoder.json", "vocab.bpe"])
def test_a_missing_file_is_named(tmp_path: Path, trained: Path, file: str):
    for other in {"encoder.json", "vocab.bpe"} - {file}:
        (tmp_path / other).write_bytes((trained / other).read_bytes())
    with pytest.raises(FileNotFoundError, match=f"no {file} in"):
        load_tokenizer(tmp_path)


def test_in_transformer_lens_nothing_is_prepended(model: HookedTransformer, slow: SlowBPE):
    text = "def f(x):\n    return x\n"
    ids = slow.encode(text)
    assert model.to_tokens(text).tolist() == [ids]
    assert model.to_string(model.to_tokens(text)) == [text]
    assert model.to_string(model.to_tokens(text)[0]) == text
    strings = model.to_str_tokens(text)
    assert "".join(map(str, strings)) == text
    assert len(strings) == len(ids)
    assert model.to_single_token(" self") == slow.encode(" self")[0]
    assert model.to_single_str_token(399) == END
    assert model.get_token_position("(", text) == ids.index(slow.encode("(")[0])
    assert model.cfg.default_prepend_bos is False
    padded = model.to_tokens(["a", text])
    assert padded[0].tolist() == slow.encode("a") + [399] * (len(ids) - 1)
    assert model.to_tokens("a" + "\n" * 200 + "b", truncate=True).shape[1] <= 64


def test_in_transformer_lens_end_of_text_is_prepended_on_demand(
    model: HookedTransformer, slow: SlowBPE
):
    text = "(x)"
    assert model.to_tokens(text, prepend_bos=True).tolist() == [[399, *slow.encode(text)]]
    assert model.to_str_tokens(text, prepend_bos=True)[0] == END
    assert model.get_token_position("(", text, prepend_bos=True) == 1
    model.cfg.default_prepend_bos = True
    assert model.to_tokens([text, ""]).tolist() == [
        [399, *slow.encode(text)],
        [399] * (1 + len(slow.encode(text))),
    ]
    assert model.to_single_token("(") == slow.encode("(")[0]


def test_transformer_lens_keeps_it_without_loading_anything(
    trained: Path, model: HookedTransformer, monkeypatch: pytest.MonkeyPatch
):
    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError("a tokenizer was loaded by name")

    monkeypatch.setattr("transformers.AutoTokenizer.from_pretrained", refuse)
    tokenizer = load_tokenizer(trained)
    for each in (tokenizer, copy.deepcopy(tokenizer)):
        model.set_tokenizer(each)
        assert model.tokenizer is each
        assert model.cfg.tokenizer_prepends_bos is False


def test_save_pretrained_does_not_learn_to_prepend(trained: Path, tmp_path: Path):
    tokenizer = load_tokenizer(trained)
    tokenizer.save_pretrained(tmp_path)
    again = PreTrainedTokenizerFast.from_pretrained(tmp_path)
    assert again("x = 1")["input_ids"] == tokenizer("x = 1")["input_ids"]


def test_make_tokenizer_refuses_an_empty_vocabulary():
    with pytest.raises(ValueError, match="vocabulary is empty"):
        make_tokenizer({}, [])
