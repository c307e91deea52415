"""Reading configs: defaults, older keys, and refusals that name the key."""

import json
from pathlib import Path
from typing import Any

import pytest

from sparse_lens.models.config import AFRAC_LOCTYPES, SparseGPTConfig
from tests.models.reference_gpt import HARMLESS, PLACES

TINY: dict[str, Any] = {"block_size": 8, "vocab_size": 11, "n_layer": 1, "n_head": 2, "d_model": 12}


def test_defaults_are_those_of_the_released_code() -> None:
    cfg = SparseGPTConfig.from_dict({})
    assert (cfg.block_size, cfg.vocab_size, cfg.n_layer, cfg.n_head) == (1024, 50304, 12, 12)
    assert (cfg.d_model, cfg.d_head, cfg.d_mlp) == (768, 64, 3072)
    assert (cfg.bias, cfg.ln_bias, cfg.rms_norm, cfg.tied_unembed) == (True, True, False, True)
    assert (cfg.activation_type, cfg.residual_activation_type) == ("gelu", "identity")
    assert cfg.afrac is None
    assert cfg.afrac_loctypes == "attn_in,attn_out,mlp_in,mlp_out"
    assert cfg.d_pos_emb is None
    assert {cfg.enable_bigram_table, cfg.learnable_bigram_table, cfg.sink} == {False}
    assert not any(cfg.has_abs_topk(place) for place in PLACES)


def test_places_are_those_of_the_description() -> None:
    assert sorted(AFRAC_LOCTYPES) == sorted(PLACES)


@pytest.mark.parametrize(
    ("keys", "field", "value"),
    [
        ({"n_mlp": 5}, "d_mlp", 5),
        ({"n_mlp": 5, "d_mlp": 5}, "d_mlp", 5),
        ({"n_mlp": 5, "d_mlp": None}, "d_mlp", 5),
        ({"d_mlp": None, "n_mlp": 5}, "d_mlp", 5),
        ({"d_mlp": None}, "d_mlp", 48),
        ({"d_head": None}, "d_head", 6),
        ({"d_head": 5}, "d_head", 5),
        ({"n_embd": 768}, "d_model", 12),
        ({"afrac": 1, "d_head": 1}, "afrac", 1),
        ({"afrac_loctypes": None}, "afrac_loctypes", "attn_in,attn_out,mlp_in,mlp_out"),
        ({"afrac_loctypes": ["mlp_in", "attn_q"]}, "afrac_loctypes", "mlp_in,attn_q"),
        ({"afrac_loctypes": "", "afrac": 0.5}, "afrac_loctypes", ""),
    ],
)
def test_spellings(keys: dict[str, Any], field: str, value: Any) -> None:
    assert getattr(SparseGPTConfig.from_dict(TINY | keys), field) == value


def test_n_embd_stands_in_for_d_model() -> None:
    older = {key: value for key, value in TINY.items() if key != "d_model"} | {"n_embd": 12}
    assert SparseGPTConfig.from_dict(older) == SparseGPTConfig.from_dict(TINY)


def test_harmless_keys_are_kept_apart() -> None:
    cfg = SparseGPTConfig.from_dict(TINY | HARMLESS)
    assert cfg == SparseGPTConfig.from_dict(TINY)
    assert cfg.ignored == HARMLESS


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("use_tied_aux_matrix", True),
        ("rope_theta", 10000.0),
        ("qk_norm", True),
        ("logit_soft_cap", 30),
        ("eps", 1e-6),
        ("lrelu_slope", 0.1),
        ("parallel_blocks", "yes"),
        ("n_kv_heads", 0),
    ],
)
def test_an_unknown_key_is_refused_by_name(key: str, value: Any) -> None:
    with pytest.raises(ValueError, match=rf"config key '{key}'.*may change the forward pass"):
        SparseGPTConfig.from_dict(TINY | {key: value})


def test_a_misspelt_key_gets_a_suggestion() -> None:
    with pytest.raises(ValueError, match="did you mean 'afrac_loctypes'"):
        SparseGPTConfig.from_dict(TINY | {"afrac_loctype": "mlp_in"})


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"n_layer": 0}, "n_layer must be a positive integer, got 0"),
        ({"n_head": 0}, "n_head must be a positive integer"),
        ({"d_model": 12.0}, "d_model must be a whole number, got 12.0"),
        ({"vocab_size": None}, "vocab_size must be a whole number, got None"),
        ({"d_head": -1}, "d_head must be a positive integer"),
        ({"d_mlp": True}, "d_mlp must be a whole number"),
        ({"d_mlp": 5, "n_mlp": 6}, "gives d_mlp twice: 5 and 6"),
        ({"n_head": 5}, "d_model 12 is no multiple of n_head 5: give d_head"),
        ({"d_pos_emb": 0}, "d_pos_emb must be a positive integer"),
        ({"sinusoidal_cat_pos_emb": True}, "sinusoidal_cat_pos_emb needs d_pos_emb"),
        ({"bias": 1}, "bias must be true or false, got 1"),
        ({"sink": "yes"}, "sink must be true or false"),
        ({"activation_type": "silu"}, "activation_type must be one of"),
        ({"residual_activation_type": "gelu"}, "residual_activation_type must be one of"),
        ({"afrac": 0}, r"afrac must lie in \(0, 1\]"),
        ({"afrac": 1.5}, r"afrac must lie in \(0, 1\]"),
        ({"afrac": "0.5"}, "afrac must be a number, got '0.5'"),
        (
            {"afrac": 0.5, "afrac_loctypes": "mlp_in,mlp_mid"},
            r"names \['mlp_mid'\]; known locations",
        ),
        ({"afrac": 0.5, "afrac_loctypes": None}, "afrac_loctypes must be text, got None"),
        ({"afrac": 0.05, "afrac_loctypes": "mlp_neuron,attn_q"}, "keeps none of the 12 .* attn_q"),
    ],
)
def test_bad_values(keys: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SparseGPTConfig.from_dict(TINY | keys)


@pytest.mark.parametrize("afrac", [0.062, 0.125, 0.25, 0.29, 0.57, 0.58, 0.999999999999])
def test_what_is_kept_rounds_as_python_does(afrac: float) -> None:
    for width in (20, 50, 100, 2048):
        cfg = SparseGPTConfig(
            d_model=width, n_head=1, afrac=afrac, afrac_loctypes="attn_out,resid_post_mlp"
        )
        assert cfg.kept("attn_out") == int(afrac * width)
        assert cfg.kept("resid_post_mlp") == int(afrac * width)
        assert cfg.kept("mlp_in") is None


def test_widths_of_the_places() -> None:
    cfg = SparseGPTConfig(
        d_model=12,
        n_head=3,
        d_head=8,
        d_mlp=20,
        d_pos_emb=4,
        afrac=0.5,
        afrac_loctypes=",".join(AFRAC_LOCTYPES),
    )
    assert cfg.d_in == 16
    assert {place: cfg.kept(place) for place in AFRAC_LOCTYPES} == {
        **dict.fromkeys(("attn_in", "mlp_in"), 8),
        **dict.fromkeys(("attn_q", "attn_k", "attn_v"), 12),
        **dict.fromkeys(("attn_out", "mlp_out", "resid_post_attn", "resid_post_mlp"), 6),
        "mlp_neuron": 10,
    }
    with pytest.raises(ValueError, match="no location 'mlp_post'"):
        cfg.kept("mlp_post")


def test_an_abs_topk_that_keeps_everything_is_none() -> None:
    cfg = SparseGPTConfig.from_dict(TINY | {"afrac": 1.0, "afrac_loctypes": "resid_post_mlp"})
    assert not cfg.has_abs_topk("resid_post_mlp")
    assert cfg.stream_is_a_sum


@pytest.mark.parametrize(
    ("keys", "is_sum"),
    [
        ({}, True),
        ({"residual_activation_type": "relu"}, False),
        ({"afrac": 0.5}, True),
        ({"afrac": 0.5, "afrac_loctypes": "resid_post_attn"}, False),
        ({"afrac": 0.5, "afrac_loctypes": "resid_post_mlp"}, False),
    ],
)
def test_when_the_stream_is_a_sum(keys: dict[str, Any], is_sum: bool) -> None:
    assert SparseGPTConfig.from_dict(TINY | keys).stream_is_a_sum is is_sum


def test_to_dict_reads_back() -> None:
    cfg = SparseGPTConfig.from_dict(TINY | HARMLESS | {"afrac": 0.5, "d_pos_emb": 3, "sink": True})
    assert SparseGPTConfig.from_dict(json.loads(json.dumps(cfg.to_dict()))) == cfg


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", "is not valid JSON"),
        (b"\xff\xfe{}", "is not valid JSON"),
        (b"[1, 2]", "must hold a JSON object, got list"),
        (b'{"n_layer": -1}', "config.json: n_layer must be a positive integer"),
    ],
)
def test_files_that_cannot_be_read(content: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        SparseGPTConfig.from_file(path)
