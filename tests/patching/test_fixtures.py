"""Against numbers that independent programs computed on the reference models."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformer_lens import HookedTransformer, HookedTransformerConfig

from sparse_lens.ablation import InterchangeAblation, MeanAblation
from sparse_lens.circuit import Circuit
from sparse_lens.graphs import ChannelGraph, ComponentGraph
from sparse_lens.models.checkpoint import load_sparse_gpt
from sparse_lens.objectives import KLDivergence, NegatedLogitDifference
from sparse_lens.patching import run_circuit
from sparse_lens.task import Prompts

COMPONENT = ["ln_gelu", "parallel_ln"]
SPARSE = ["sparse_sink_bigram", "sweep_like_no_qk_topk", "dense_layernorm_tied", "cat_pos_emb"]


def component_reference(folder: Path, name: str) -> tuple[HookedTransformer, Prompts, dict]:
    """A model, its prompts and what is known of it."""
    values = json.loads((folder / "component_graph" / f"{name}.json").read_text())
    known = {key: value for key, value in values["config"].items() if key != "n_params"}
    model = HookedTransformer(HookedTransformerConfig(**known))
    weights = load_file(folder / "component_graph" / f"{name}.safetensors")
    model.load_state_dict(weights, strict=False)
    answers, distractors = torch.tensor(values["labels"]).T
    clean, corrupted = (torch.tensor(values[key]) for key in ("clean", "corrupt"))
    prompts = Prompts(clean=clean, corrupted=corrupted, answers=answers, distractors=distractors)
    return model, prompts, values


@pytest.mark.parametrize("name", COMPONENT)
@torch.no_grad()
def test_random_circuits(fixtures: Path, name: str) -> None:
    model, prompts, values = component_reference(fixtures, name)
    graph = ComponentGraph.from_model(model)
    full = model(prompts.clean)[:, -1]
    assert (full - torch.tensor(values["full_logits_last"])).abs().max() < 1e-5
    for known in values["circuits"].values():
        for edges in (known["edges"], known["pruned_edges"]):
            circuit = Circuit.from_edge_names(graph, edges)
            logits = run_circuit(model, circuit, prompts, ablation=InterchangeAblation())[:, -1]
            found = KLDivergence()(logits, prompts, full)
            assert (found - torch.tensor(known["kl"])).abs().max() < 1e-5
            difference = float(NegatedLogitDifference()(logits, prompts).mean())
            assert difference == pytest.approx(known["neg_logit_diff"], abs=1e-5)


@pytest.mark.parametrize("name", SPARSE)
@torch.no_grad()
def test_node_masks(fixtures: Path, name: str) -> None:
    model: Any = load_sparse_gpt(fixtures / "sparse_gpt" / name)
    graph = ChannelGraph.from_model(model)
    tokens = load_file(fixtures / "sparse_gpt" / name / "reference.safetensors")["tokens"]
    reference = load_file(fixtures / "sparse_gpt" / name / "node_mask_reference.safetensors")
    for fraction in ("0.9", "0.5"):
        masks = {
            site: reference[f"{fraction}/mask/{released(site)}"].bool() for site in graph.sites
        }
        means = {site: reference[f"{fraction}/mean/{released(site)}"] for site in graph.sites}
        circuit = Circuit.from_node_masks(graph, masks)
        logits = run_circuit(model, circuit, tokens, ablation=MeanAblation(means=means))
        assert (logits - reference[f"{fraction}/logits"]).abs().max() < 1e-5


def released(site: str) -> str:
    """The released name of a site."""
    if site == "final_resid":
        return site
    _, layer, place = site.split(".")
    names = {
        "attn_in": "attn.act_in",
        "q": "attn.q",
        "k": "attn.k",
        "v": "attn.v",
        "attn_out": "attn.resid_delta",
        "mlp_in": "mlp.act_in",
        "mlp_post": "mlp.post_act",
        "mlp_out": "mlp.resid_delta",
    }
    return f"{layer}.{names[place]}"
