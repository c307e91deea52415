"""What the anatomy says of a model, against what the model computes."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from transformer_lens import HookedTransformerConfig

from sparse_lens.models.anatomy import Anatomy, anatomy_of
from sparse_lens.models.anatomy.hooked_transformer import hooked_transformer_anatomy
from tests.patching import tiny
from tests.patching.tiny import TOLERANCE, difference

MODELS = [
    *((tiny.dense, name) for name in tiny.DENSE),
    *((tiny.sparse, name) for name in tiny.SPARSE | tiny.NO_SUM),
]
each_model = pytest.mark.parametrize(
    ("make", "name"), MODELS, ids=[tiny.id_of(model) for model in MODELS]
)
TOKENS = torch.tensor([[1, 5, 2, 9, 9, 3], [7, 0, 12, 4, 1, 1]])


class Observed:
    """A model, and the values at its hook points in one run."""

    def __init__(self, make: Any, name: str) -> None:
        self.model: Any = make(name, dtype=torch.float64)
        self.anatomy = anatomy_of(self.model)
        self.layers = range(self.anatomy.n_layers)
        self.values, self.logits = self.run()

    @torch.no_grad()
    def run(self, **edits: Any) -> tuple[dict[str, Tensor], Tensor]:
        values: dict[str, Tensor] = {}

        def keep(value: Tensor, hook: Any) -> Tensor | None:
            if hook.name in edits:
                value = edits[hook.name](value.clone())
            values[hook.name] = value.clone()
            return value

        if not self.anatomy.attn_only:
            self.model.set_use_hook_mlp_in(True)
        logits = self.model.run_with_hooks(TOKENS, fwd_hooks=[(lambda name: True, keep)])
        return values, logits

    def attn(self, layer: int) -> Any:
        return self.model.blocks[layer].attn

    def normed(self, layer: int, norms: tuple[str, ...], stream: Tensor) -> Tensor:
        """The stream as the norms leave it; without position embeddings."""
        return getattr(self.model.blocks[layer], norms[0])(stream) if norms else stream

    def head_sum(self, layer: int, values: dict[str, Tensor]) -> Tensor:
        """The sum of the heads' outputs, from their `z`."""
        z, attn = values[self.anatomy.z(layer)], self.attn(layer)
        return torch.einsum("bphd,hdm->bpm", z, attn.W_O) + attn.b_O


def of_projection(letter: str, attn: Any) -> tuple[Tensor, Tensor]:
    """Weights and biases [head, ...] of q, k or v as they are: some heads may share them."""
    shared = hasattr(attn, "_W_K") and letter != "q"
    prefix = "_" if shared else ""
    upper = letter.upper()
    return getattr(attn, f"{prefix}W_{upper}"), getattr(attn, f"{prefix}b_{upper}")


def check_reads(anatomy: Anatomy, norm_alone: bool, differences: list[float]) -> None:
    """By the differences, layer after layer, from what the norm alone would have given."""
    if norm_alone:
        assert max(differences) < TOLERANCE
    elif anatomy.abs_topk.isdisjoint(("resid_post_attn", "resid_post_mlp")):
        assert max(differences) > TOLERANCE  # in a sparse stream an AbsTopK may drop nothing


@each_model
def test_every_hook_point_is_there_and_fires(make, name):
    seen = Observed(make, name)
    anatomy = seen.anatomy
    points = {anatomy.first_stream, anatomy.final_stream, anatomy.embeddings[0]}
    for layer in seen.layers:
        points |= {
            anatomy.attn_stream(layer),
            anatomy.pattern(layer),
            anatomy.z(layer),
            anatomy.attn_sum(layer),
            anatomy.attn_out(layer),
            *(anatomy.attended(layer, letter) for letter in "qkv"),
            *(anatomy.projected(layer, letter) for letter in "qkv"),
            *(anatomy.norm_scale(layer, norm) for norm in anatomy.attn_norms),
        }
        if anatomy.attn_norms:  # else only under `use_attn_in`
            points.add(anatomy.attn_read(layer))
        if not anatomy.attn_only:
            points |= {
                anatomy.mlp_stream(layer),
                anatomy.mlp_in(layer),
                anatomy.mlp_read(layer),
                anatomy.neurons_pre(layer),
                anatomy.neurons(layer),
                anatomy.mlp_sum(layer),
                anatomy.mlp_out(layer),
            }
    assert points <= set(seen.values)


@each_model
@torch.no_grad()
def test_the_stream_is_the_sum_of_what_is_written_or_the_reason_is_given(make, name):
    seen = Observed(make, name)
    anatomy, values = seen.anatomy, seen.values
    stream = values[anatomy.first_stream]
    for layer in seen.layers:
        stream = stream + values[anatomy.attn_out(layer)]
        if not anatomy.attn_only:
            stream = stream + values[anatomy.mlp_out(layer)]
    is_sum = difference(stream, values[anatomy.final_stream]) < TOLERANCE
    assert is_sum == (anatomy.stream_is_no_sum is None)


@each_model
@torch.no_grad()
def test_embeddings_are_written_by_themselves_or_the_reason_is_given(make, name):
    seen = Observed(make, name)
    token, position = seen.anatomy.embeddings
    stream = seen.values[seen.anatomy.first_stream]
    written = [seen.values[hook] for hook in (token, position) if hook in seen.values]
    split = len(written) == 2 and all(value.shape[-1] == stream.shape[-1] for value in written)
    split = split and difference(written[0] + written[1], stream) < TOLERANCE
    assert split == (seen.anatomy.embeddings_are_one is None)


@each_model
@torch.no_grad()
def test_heads_project_the_norm_of_the_stream_where_they_read_nothing_else(make, name):
    seen = Observed(make, name)
    anatomy, differences = seen.anatomy, []
    for layer in seen.layers:
        stream = seen.values[anatomy.attn_stream(layer)]
        read = seen.normed(layer, anatomy.attn_norms, stream)
        for letter in "qkv":
            weight, bias = of_projection(letter, seen.attn(layer))
            projected = seen.values[anatomy.projected(layer, letter)]
            if weight.shape[1] == read.shape[-1]:
                of_norm = torch.einsum("bpd,hde->bphe", read, weight) + bias
                differences.append(difference(of_norm, projected))
            else:
                differences.append(math.inf)
    check_reads(anatomy, anatomy.attn_reads_norm, differences)


@each_model
@torch.no_grad()
def test_mlps_project_the_norm_of_the_stream_where_they_read_nothing_else(make, name):
    seen = Observed(make, name)
    anatomy, differences = seen.anatomy, [0.0]
    for layer in () if anatomy.attn_only else seen.layers:
        mlp, stream = seen.model.blocks[layer].mlp, seen.values[anatomy.mlp_stream(layer)]
        assert torch.equal(stream, seen.values[anatomy.mlp_in(layer)])
        read = seen.normed(layer, anatomy.mlp_norms, stream)
        gated = seen.model.cfg.gated_mlp
        weight, bias = (mlp.W_gate, 0) if gated else (mlp.W_in, mlp.b_in)
        pre = seen.values[anatomy.neurons_pre(layer)]
        fits = len(weight) == read.shape[-1]
        differences.append(difference(read @ weight + bias, pre) if fits else math.inf)
    check_reads(anatomy, anatomy.mlp_reads_norm, differences)


@tiny.each_channel_model
@torch.no_grad()
def test_channels_that_are_read_are_those_that_weights_apply_to(make, name):
    """The norm's gain and bias come after them or before them, as the anatomy says."""
    seen = Observed(make, name)
    anatomy, values = seen.anatomy, seen.values
    assert not anatomy.no_channel_edges
    for layer, block in enumerate(seen.model.blocks):

        def applied(channels: Tensor, norm: Any) -> Tensor:
            if not anatomy.channels_precede_gain:
                return channels
            return channels * getattr(norm, "w", 1) + getattr(norm, "b", 0)

        if anatomy.attn_norms:
            read = applied(values[anatomy.attn_read(layer)], block.ln1)
            q = torch.einsum("bpd,hde->bphe", read, block.attn.W_Q) + block.attn.b_Q
            assert difference(q, values[anatomy.projected(layer, "q")]) < TOLERANCE
        if not anatomy.attn_only:
            read = applied(values[anatomy.mlp_read(layer)], block.ln2)
            pre = read @ block.mlp.W_in + block.mlp.b_in
            assert difference(pre, values[anatomy.neurons_pre(layer)]) < TOLERANCE


@each_model
@torch.no_grad()
def test_what_stands_between_a_sublayer_and_the_stream(make, name):
    seen = Observed(make, name)
    anatomy, values = seen.anatomy, seen.values
    assert not (anatomy.attn_is_gated and anatomy.attn_post_norm)
    for layer, block in enumerate(seen.model.blocks):
        total, written = seen.head_sum(layer, values), values[anatomy.attn_out(layer)]
        if anatomy.attn_post_norm is not None:
            assert difference(getattr(block, anatomy.attn_post_norm)(total), written) < TOLERANCE
        else:
            assert difference(total, values[anatomy.attn_sum(layer)]) < TOLERANCE
            assert (difference(total, written) > TOLERANCE) == anatomy.attn_is_gated
        if anatomy.attn_is_gated:
            assert difference(total * (written != 0), written) < TOLERANCE
        if anatomy.attn_only:
            continue
        total = values[anatomy.neurons(layer)] @ block.mlp.W_out + block.mlp.b_out
        if anatomy.mlp_post_norm is not None:
            norm = getattr(block, anatomy.mlp_post_norm)
            assert difference(norm(total), values[anatomy.mlp_out(layer)]) < TOLERANCE
        else:
            assert difference(total, values[anatomy.mlp_sum(layer)]) < TOLERANCE


@each_model
@torch.no_grad()
def test_heads_are_coupled_where_one_head_changes_what_comes_of_another(make, name):
    seen = Observed(make, name)
    anatomy, model = seen.anatomy, seen.model

    def disturb(projected: Tensor) -> Tensor:
        projected[:, :, 0] += torch.linspace(-4, 4, projected.shape[-1], dtype=projected.dtype)
        return projected

    key_heads = model.cfg.n_key_value_heads or model.cfg.n_heads
    others = slice(model.cfg.n_heads // key_heads, None)  # those that do not share its keys
    coupled = False
    for letter in "qkv":
        values, _ = seen.run(**{anatomy.projected(0, letter): disturb})
        z, before = (run[anatomy.z(0)] for run in (values, seen.values))
        coupled |= bool((z != before)[:, :, others].any())
        written = values[anatomy.attn_out(0)] - seen.values[anatomy.attn_out(0)]
        by_heads = torch.einsum("bphd,hdm->bpm", z - before, seen.attn(0).W_O)
        coupled |= difference(written, by_heads) > TOLERANCE
    assert coupled == anatomy.heads_are_coupled


@each_model
@torch.no_grad()
def test_plain_attention_is_a_softmax_of_products(make, name):
    seen = Observed(make, name)
    layer = seen.anatomy.n_layers - 1  # which attends to all positions in every model here
    q, k, v = (seen.values[seen.anatomy.projected(layer, letter)] for letter in "qkv")
    repeats = seen.model.cfg.n_heads // k.shape[2]
    assert (repeats > 1) == seen.anatomy.grouped_heads
    k, v = (part.repeat_interleave(repeats, 2) for part in (k, v))
    scores = torch.einsum("bqhd,bkhd->bhqk", q, k) / seen.attn(layer).attn_scale
    later = torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1)
    z = torch.einsum("bhqk,bkhd->bqhd", scores.masked_fill(later, -torch.inf).softmax(-1), v)
    plain = difference(z, seen.values[seen.anatomy.z(layer)]) < TOLERANCE
    if make is tiny.dense:
        assert plain == seen.anatomy.plain_attention
    else:
        assert not seen.anatomy.plain_attention  # its module is another one


@each_model
@torch.no_grad()
def test_values_are_clipped_behind_their_hook_point(make, name):
    seen = Observed(make, name)
    anatomy = seen.anatomy
    values, _ = seen.run(**{anatomy.attended(0, "v"): lambda v: torch.full_like(v, 50.0)})
    bound = float(values[anatomy.z(0)].max())
    assert anatomy.value_clip == (pytest.approx(bound) if bound < 1 else None)


@each_model
@torch.no_grad()
def test_logits_are_the_unembedding_alone_where_nothing_comes_behind_it(make, name):
    seen = Observed(make, name)
    model, final = seen.model, seen.values[seen.anatomy.final_stream]
    normed = model.ln_final(final) if model.cfg.normalization_type is not None else final
    alone = difference(normed @ model.W_U + model.b_U, seen.logits) < TOLERANCE
    assert alone != (seen.anatomy.caps_logits or seen.anatomy.has_bigram_table)
    n_layers, others = seen.anatomy.n_layers, TOKENS.flip(1)
    of_stream = model(final, start_at_layer=n_layers, tokens=others)
    needs_tokens = difference(of_stream, seen.logits) > TOLERANCE
    assert needs_tokens == seen.anatomy.has_bigram_table


# By hand, from the descriptions of the architectures: all that is not the default.
BY_HAND: dict[str, dict[str, Any]] = {
    "LN": {"plain_attention": True},
    "no norm": {"plain_attention": True, "attn_norms": (), "mlp_norms": ()},
    "attention only": {"plain_attention": True, "attn_only": True, "mlp_norms": ()},
    "parallel": {"plain_attention": True, "parallel": True},
    "soft caps": {"caps_logits": True},
    "clipped qkv": {"value_clip": 0.7},
    "qk norm": {},
    "sinks": {},
    "grouped queries": {
        "plain_attention": True,
        "grouped_heads": True,
        "no_channel_edges": ("grouped queries (n_key_value_heads)",),
    },
    "OLMo 2": {
        "joint_qk_norm": True,
        "attn_norms": (),
        "mlp_norms": (),
        "attn_post_norm": "ln1",
        "mlp_post_norm": "ln2",
        "embeddings_are_one": "no position embedding is added to the stream "
        "(positional_embedding_type 'rotary')",
        "no_channel_edges": (
            "gated MLPs (gated_mlp)",
            "post-norms (original_architecture Olmo2ForCausalLM)",
        ),
    },
    "Gemma 2": {
        "grouped_heads": True,
        "attn_post_norm": "ln1_post",
        "mlp_post_norm": "ln2_post",
        "caps_logits": True,
        "embeddings_are_one": "no position embedding is added to the stream "
        "(positional_embedding_type 'rotary')",
        "no_channel_edges": (
            "gated MLPs (gated_mlp)",
            "grouped queries (n_key_value_heads)",
            "post-norms (use_normalization_before_and_after)",
        ),
    },
}


@pytest.mark.parametrize("name", BY_HAND)
def test_whole_anatomies_by_hand(name):
    expected = {"n_layers": 2, "attn_only": False, "parallel": False} | BY_HAND[name]
    model = tiny.dense(name)
    assert anatomy_of(model) == Anatomy(**expected)
    assert hooked_transformer_anatomy(model.cfg) == Anatomy(**expected)


def test_a_sparse_gpt_by_hand():
    anatomy = anatomy_of(tiny.sparse("all of it"))
    assert anatomy.abs_topk == set(tiny.EVERYWHERE.split(","))
    assert anatomy.concatenates_positions
    assert anatomy.attn_norms == ("ln1", "ln_p1")
    assert anatomy.mlp_norms == ("ln2", "ln_p2")
    assert anatomy.has_bigram_table
    assert anatomy.heads_are_coupled
    assert anatomy.projected(1, "k") == "blocks.1.attn.hook_k_pre"
    assert anatomy.attended(1, "k") == "blocks.1.attn.hook_k"
    assert anatomy_of(tiny.sparse("plain")).abs_topk == frozenset()
    assert anatomy_of(tiny.sparse("plain", afrac=1.0)).abs_topk == frozenset()


def test_an_anatomy_is_a_value():
    assert anatomy_of(tiny.dense("LN")) == anatomy_of(tiny.dense("RMS"))
    assert anatomy_of(tiny.dense("LN")) != anatomy_of(tiny.sparse("plain"))
    assert len({anatomy_of(tiny.dense("LN")), anatomy_of(tiny.dense("RMS"))}) == 1


def test_norms_that_are_the_identity_do_not_couple_heads():
    cfg = HookedTransformerConfig(
        n_layers=1,
        n_heads=2,
        d_model=4,
        d_head=2,
        n_ctx=4,
        d_vocab=5,
        act_fn="relu",
        normalization_type=None,
        use_normalization_before_and_after=True,
    )
    assert not hooked_transformer_anatomy(cfg).heads_are_coupled


def test_other_kinds_of_model_are_refused():
    with pytest.raises(ValueError, match=r"HookedTransformer.*got Linear"):
        anatomy_of(torch.nn.Linear(2, 2))
