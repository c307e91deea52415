"""Decompositions add up or are refused; nothing rewrites the weights of a sparse GPT."""

from typing import Any

import pytest
import torch
from torch import Tensor
from transformer_lens.utilities.matrix import composition_scores

from sparse_lens.models.activation_cache import SparseActivationCache
from sparse_lens.models.sparse_gpt import HookedSparseGPT
from tests.models.tiny_gpt import VARIANTS, some_tokens, sparse_gpt

SUMS = ["plain", "sparse", "bigram", "positions", "as wide"]
"""Variants whose stream is the sum of what is written to it."""
UNGATED = ["plain", "as wide"]
"""Those in which nothing stands between heads or neurons and the stream either."""


def close(found: Tensor, expected: Tensor) -> bool:
    return found.shape == expected.shape and bool((found - expected).abs().max() < 1e-10)


def cached(variant: str, **changes: Any) -> tuple[HookedSparseGPT, Tensor, Any]:
    model = sparse_gpt(variant, **changes)
    with torch.no_grad():
        logits, cache = model.run_with_cache(some_tokens())
    return model.requires_grad_(False), logits, cache


def refused(reason: str) -> Any:
    return pytest.raises(NotImplementedError, match=rf"is not available on this .*{reason}")


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("process_weights_", ()),
        ("load_and_process_state_dict", ({},)),
        ("fold_layer_norm", ({},)),
        ("center_writing_weights", ({},)),
        ("center_unembed", ({},)),
        ("fold_value_biases", ({},)),
        ("refactor_factored_attn_matrices", ({},)),
    ],
)
def test_weights_are_not_processed(variant: str, name: str, arguments: tuple) -> None:
    model = sparse_gpt(variant)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with refused("it rewrites weights"):
        getattr(model, name)(*arguments)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_loading_goes_another_way() -> None:
    for load in (HookedSparseGPT.from_pretrained, HookedSparseGPT.from_pretrained_no_processing):
        with refused("load_sparse_gpt"):
            load("gpt2")
    with refused("reference_tokens"):
        sparse_gpt().load_sample_training_dataset()
    with refused("reference_tokens"):
        sparse_gpt().sample_datapoint()


# The residual stream


@pytest.mark.parametrize("variant", SUMS)
def test_decompose_resid_adds_up(variant: str) -> None:
    model, _, cache = cached(variant)
    assert close(cache.decompose_resid().sum(0), cache["resid_post", -1])
    assert close(cache.decompose_resid(1).sum(0), cache["resid_pre", 1])
    assert close(cache.decompose_resid(1, mlp_input=True).sum(0), cache["resid_mid", 1])
    normed = cache.decompose_resid(apply_ln=True).sum(0)
    assert close(normed, cache["ln_final.hook_normalized"])
    _, labels = cache.decompose_resid(return_labels=True)
    added = model.sparse_cfg.d_pos_emb is None
    layers = ["0_attn_out", "0_mlp_out", "1_attn_out", "1_mlp_out"]
    assert labels == ["embed", *["pos_embed"] * added, *layers]


@pytest.mark.parametrize("variant", UNGATED)
def test_heads_neurons_and_biases_add_up(variant: str) -> None:
    model, _, cache = cached(variant)
    heads = cache.stack_head_results()
    assert heads.shape == (6, 3, 7, 16)
    assert close(heads[:3].sum(0) + model.b_O[0], cache["attn_out", 0])
    remainder = cache.stack_head_results(incl_remainder=True)
    assert close(remainder.sum(0), cache["resid_post", -1])
    neurons = cache.get_neuron_results(1)
    assert close(neurons.sum(-2) + model.b_out[1], cache["mlp_out", 1])
    assert close(
        cache.stack_neuron_results(-1, incl_remainder=True).sum(0), cache["resid_post", -1]
    )
    for options in ({}, {"expand_neurons": False}, {"layer": 1}, {"layer": 1, "mlp_input": True}):
        whole = cache.get_full_resid_decomposition(**options).sum(0)
        layer = options.get("layer")
        name = "resid_mid" if options.get("mlp_input") else "resid_pre"
        assert close(whole, cache["resid_post", -1] if layer is None else cache[name, layer])
    normed = cache.get_full_resid_decomposition(1, apply_ln=True).sum(0)
    assert close(normed, cache["blocks.1.ln1.hook_normalized"])


def test_head_results_are_those_of_the_flag() -> None:
    model, _, cache = cached("plain")
    cache.compute_head_results()
    model.set_use_attn_result(True)
    with torch.no_grad():
        _, expected = model.run_with_cache(some_tokens(), remove_batch_dim=False)
    for layer in range(2):
        assert close(cache["result", layer], expected["result", layer])
    expected.compute_head_results()  # they are there
    model.set_use_attn_result(False)
    _, single = model.run_with_cache(some_tokens(1), remove_batch_dim=True)
    single.compute_head_results()
    assert single["result", 0].shape == (7, 3, 16)


def test_results_inside_a_layer_need_no_sum_of_the_stream() -> None:
    model, _, cache = cached("stream")
    cache.compute_head_results()
    assert close(cache["result", 0].sum(-2) + model.b_O[0], cache["attn_out", 0])
    assert close(cache.get_neuron_results(0).sum(-2) + model.b_out[0], cache["mlp_out", 0])


@pytest.mark.parametrize(
    "name", ["compute_head_results", "stack_head_results", "get_full_resid_decomposition"]
)
def test_heads_behind_an_abs_topk_are_refused(name: str) -> None:
    _, _, cache = cached("plain", afrac=0.3, afrac_loctypes="attn_out")
    with refused("the AbsTopK at attn_out stands between the parts and their sum"):
        getattr(cache, name)()


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("get_neuron_results", (0,)),
        ("stack_neuron_results", (-1,)),
        ("get_full_resid_decomposition", ()),
    ],
)
def test_neurons_behind_an_abs_topk_are_refused(name: str, arguments: tuple) -> None:
    _, _, cache = cached("plain", afrac=0.3, afrac_loctypes="mlp_out")
    with refused("the AbsTopK at mlp_out"):
        getattr(cache, name)(*arguments)


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("decompose_resid", ()),
        ("stack_head_results", ()),
        ("stack_neuron_results", (-1,)),
        ("get_full_resid_decomposition", ()),
    ],
)
@pytest.mark.parametrize(
    "changes",
    [
        {"residual_activation_type": "relu"},
        {"afrac": 0.5, "afrac_loctypes": "resid_post_attn"},
        {"afrac": 0.5, "afrac_loctypes": "resid_post_mlp"},
    ],
)
def test_a_stream_that_is_no_sum_is_not_decomposed(
    name: str, arguments: tuple, changes: dict[str, Any]
) -> None:
    model, _, cache = cached("plain", **changes)
    with refused("acts on the stream after each sublayer"):
        getattr(cache, name)(*arguments)
    with refused("acts on the stream"):
        model.accumulated_bias(1)


def test_slices_of_the_batch_keep_refusing() -> None:
    _, _, cache = cached("sparse")
    for part in (cache.apply_slice_to_batch_dim((0, 2)), cache.apply_slice_to_batch_dim(1)):
        assert isinstance(part, SparseActivationCache)
        with refused("AbsTopK at attn_out"):
            part.stack_head_results()
    _, _, wide = cached("as wide")
    part = wide.apply_slice_to_batch_dim((0, 2))
    assert close(part.decompose_resid().sum(0), wide["resid_post", -1][:2])
    assert not isinstance(sparse_gpt().run_with_cache(some_tokens(), return_cache_object=False)[1],
                          SparseActivationCache)  # fmt: skip


# Logits


@pytest.mark.parametrize("variant", ["plain", "sparse", "as wide", "stream"])
def test_logit_attributions_add_up(variant: str) -> None:
    model, logits, cache = cached(variant)
    parts = cache["resid_post", -1][None]
    if variant != "stream":
        parts = cache.decompose_resid()
    bias = model.b_U.clone()
    if not model.sparse_cfg.rms_norm:
        bias += model.ln_final.get_parameter("b") @ model.W_U
    for token in (3, torch.tensor(3)):
        total = cache.logit_attrs(parts, token).sum(0)
        assert close(total + bias[3], logits[..., 3])
    difference = cache.logit_attrs(parts, 3, 5).sum(0)
    assert close(difference + bias[3] - bias[5], logits[..., 3] - logits[..., 5])
    tokens = torch.tensor([1, 2, 3])
    last = cache.logit_attrs(parts[:, :, -1], tokens, pos_slice=-1).sum(0)
    assert close(last + bias[tokens], logits[torch.arange(3), -1, tokens])
    with pytest.raises(ValueError, match="must have one shape"):
        cache.logit_attrs(parts, tokens, 5)


def test_a_bigram_table_is_not_attributed() -> None:
    model, logits, cache = cached("bigram")
    with refused("its bigram table adds to the logits beside the stream"):
        cache.logit_attrs(cache.decompose_resid(), 3)
    with refused("add model.bigram_table"):
        cache.accumulated_resid(apply_ln=True)
    with refused("add model.bigram_table"):
        cache.accumulated_resid(None, False, True)
    streams = cache.accumulated_resid()
    assert close(streams[-1], cache["resid_post", -1])
    seen = model.unembed(model.ln_final(streams[-1])) + model.bigram_table[some_tokens()]
    assert close(seen, logits)


@pytest.mark.parametrize("variant", ["plain", "sparse", "as wide", "stream"])
def test_the_logit_lens(variant: str) -> None:
    model, logits, cache = cached(variant)
    streams, labels = cache.accumulated_resid(apply_ln=True, incl_mid=True, return_labels=True)
    assert labels == ["0_pre", "0_mid", "1_pre", "1_mid", "final_post"]
    assert close(streams[1], model.ln_final(cache["resid_mid", 0]))
    assert close(streams[-1] @ model.W_U + model.b_U, logits)


@pytest.mark.parametrize(("place", "mlp_input"), [("attn_in", False), ("mlp_in", True)])
def test_a_norm_before_an_abs_topk_is_not_applied(place: str, mlp_input: bool) -> None:
    _, _, cache = cached("plain", afrac=0.3, afrac_loctypes=place)
    options: dict[str, Any] = {"mlp_input": mlp_input, "apply_ln": True}
    with refused(f"the AbsTopK at {place}"):
        cache.decompose_resid(1, **options)
    with refused(f"the AbsTopK at {place}"):
        cache.accumulated_resid(1, **options)
    other = cache.decompose_resid(1, mlp_input=not mlp_input, apply_ln=True).sum(0)
    assert close(other, cache[f"blocks.1.ln{1 if mlp_input else 2}.hook_normalized"])
    projected = {"project_output_onto": torch.ones(16).double(), "apply_ln": True}
    if place == "attn_in":
        with refused("the AbsTopK at attn_in"):
            cache.stack_neuron_results(1, **projected)


# Weights


def test_accumulated_bias() -> None:
    model = sparse_gpt("plain").requires_grad_(False)
    attn, mlp = model.b_O, model.b_out
    assert close(model.accumulated_bias(0), torch.zeros(16).double())
    assert close(model.accumulated_bias(1), attn[0] + mlp[0])
    assert close(model.accumulated_bias(1, mlp_input=True), attn[0] + mlp[0] + attn[1])
    assert close(model.accumulated_bias(2, include_mlp_biases=False), attn[0] + attn[1])
    with pytest.raises(ValueError, match=r"layer must lie in \[0, 1\]"):
        model.accumulated_bias(2, mlp_input=True)
    gated = sparse_gpt("plain", afrac=0.3, afrac_loctypes="mlp_out").requires_grad_(False)
    with refused("the AbsTopK at mlp_out"):
        gated.accumulated_bias(2)
    assert close(gated.accumulated_bias(2, include_mlp_biases=False), gated.b_O.sum(0))


def test_embeddings_above_each_other() -> None:
    model = sparse_gpt("plain")
    assert torch.equal(model.W_E_pos, torch.cat([model.W_E, model.W_pos]))
    with refused("position embeddings are concatenated"):
        _ = sparse_gpt("as wide").W_E_pos


def test_composition_scores() -> None:
    model = sparse_gpt("plain").requires_grad_(False)
    scores = model.all_composition_scores("V")
    expected = composition_scores(model.OV[0], model.OV[1])
    assert close(scores[0, :, 1], expected)
    assert bool((scores[1] == 0).all())
    with refused("position embeddings are concatenated"):
        sparse_gpt("as wide").all_composition_scores("Q")
    with refused("the AbsTopK at attn_q, attn_k"):
        sparse_gpt("plain", afrac=0.5, afrac_loctypes="attn_k,attn_q").all_composition_scores("K")
