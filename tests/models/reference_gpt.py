"""A slow, obvious weight-sparse GPT: the oracle for the one in TransformerLens.

Written from the description of the released checkpoints alone, on plain tensors under their
released names: one head at a time, every AbsTopK by sorting.
"""

import math
import random
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

DEFAULTS = {
    "bias": True,
    "ln_bias": True,
    "rms_norm": False,
    "activation_type": "gelu",
    "residual_activation_type": "identity",
    "afrac": None,
    "afrac_loctypes": "attn_in,attn_out,mlp_in,mlp_out",
    "tied_unembed": True,
    "enable_bigram_table": False,
    "d_pos_emb": None,
    "sink": False,
}
PLACES = [
    *("attn_in", "attn_q", "attn_k", "attn_v", "attn_out", "mlp_in", "mlp_neuron", "mlp_out"),
    *("resid_post_attn", "resid_post_mlp"),
]


def filled(config: dict[str, Any]) -> dict[str, Any]:
    """A config with the defaults of the keys that it lacks."""
    full = DEFAULTS | config
    if full.get("d_head") is None:
        full["d_head"] = full["d_model"] // full["n_head"]
    if full.get("d_mlp") is None:
        full["d_mlp"] = full.get("n_mlp") or 4 * full["d_model"]
    full["d_in"] = full["d_model"] + (full["d_pos_emb"] or 0)
    return full


def random_weights(
    config: dict[str, Any], seed: int = 0, dtype: torch.dtype = torch.float32
) -> dict[str, Tensor]:
    """A state dict of a released model, with every gain, bias, sink and table at random."""
    c = filled(config)
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int, scale: float = 1.0, shift: float = 0.0) -> Tensor:
        return (torch.randn(shape, generator=generator) * scale + shift).to(dtype)

    def matrix(rows: int, columns: int) -> Tensor:
        return draw(rows, columns, scale=columns**-0.5)

    weights = {
        "transformer.wte.weight": draw(c["vocab_size"], c["d_model"]),
        "transformer.wpe.weight": draw(c["block_size"], c["d_pos_emb"] or c["d_model"]),
    }
    inner = c["n_head"] * c["d_head"]
    norms = {"transformer.ln_f": c["d_model"]}
    for layer in range(c["n_layer"]):
        at = f"transformer.h.{layer}"
        norms |= {f"{at}.ln_1": c["d_model"], f"{at}.ln_2": c["d_model"]}
        if c["d_pos_emb"] is not None:
            norms |= {f"{at}.ln_p1": c["d_pos_emb"], f"{at}.ln_p2": c["d_pos_emb"]}
        for name, rows, columns in (
            (f"{at}.attn.c_attn", 3 * inner, c["d_in"]),
            (f"{at}.attn.c_proj", c["d_model"], inner),
            (f"{at}.mlp.c_fc", c["d_mlp"], c["d_in"]),
            (f"{at}.mlp.c_proj", c["d_model"], c["d_mlp"]),
        ):
            weights[f"{name}.weight"] = matrix(rows, columns)
            if c["bias"]:
                weights[f"{name}.bias"] = draw(rows, scale=0.3)
        if c["sink"]:
            weights[f"{at}.attn.attn_imp.sink_logit"] = draw(c["n_head"])
    for name, width in norms.items():
        weights[f"{name}.weight"] = draw(width, scale=0.3, shift=1.0)
        if c["ln_bias"] and not c["rms_norm"]:
            weights[f"{name}.bias"] = draw(width, scale=0.3)
    tied = weights["transformer.wte.weight"].clone()
    untied = draw(c["vocab_size"], c["d_model"])
    weights["lm_head.weight"] = tied if c["tied_unembed"] else untied
    weights["final_logits_bias"] = draw(c["vocab_size"])
    if c["enable_bigram_table"]:
        weights["bigram_table"] = draw(c["vocab_size"], c["vocab_size"])
    return weights


@dataclass
class Reference:
    """One forward pass."""

    config: dict[str, Any]
    weights: dict[str, Tensor]
    activations: dict[str, Tensor] = field(default_factory=dict)

    margin: float = math.inf
    """The smallest step from a kept to a dropped magnitude: what rounding must not reach."""

    def logits(self, tokens: Tensor) -> Tensor:
        """Run the model; activations are left under their released names (and some of ours)."""
        c, w = filled(self.config), self.weights
        stream = w["transformer.wte.weight"][tokens]
        positions = w["transformer.wpe.weight"][: tokens.shape[1]].expand(len(tokens), -1, -1)
        if c["d_pos_emb"] is None:
            stream = stream + positions
        for layer in range(c["n_layer"]):
            stream = self._layer(c, layer, stream, positions)
        self.activations["final_resid"] = stream
        logits = F.linear(self._norm(c, "transformer.ln_f", stream), w["lm_head.weight"])
        logits = logits + w.get("final_logits_bias", torch.zeros(()))
        if c["enable_bigram_table"]:
            logits = logits + w["bigram_table"][tokens]
        return logits

    def _layer(self, c: dict, layer: int, stream: Tensor, positions: Tensor) -> Tensor:
        at, keep = f"transformer.h.{layer}", self._keeper(layer)
        keep("resid_in", stream)
        read = self._read(c, f"{at}.ln_1", f"{at}.ln_p1", stream, positions)
        read = keep("attn.act_in", self._abs_topk(c, "attn_in", read))
        write = keep("attn.out_pre", self._attention(c, layer, read))
        write = keep("attn.resid_delta", self._abs_topk(c, "attn_out", write))
        stream = self._act_on_stream(c, stream + write)
        stream = keep("resid_mid", self._abs_topk(c, "resid_post_attn", stream))
        read = self._read(c, f"{at}.ln_2", f"{at}.ln_p2", stream, positions)
        read = keep("mlp.act_in", self._abs_topk(c, "mlp_in", read))
        neurons = keep("mlp.pre_act", self._linear(f"{at}.mlp.c_fc", read))
        neurons = F.gelu(neurons) if c["activation_type"] == "gelu" else F.relu(neurons)
        neurons = keep("mlp.post_act", self._abs_topk(c, "mlp_neuron", neurons))
        write = keep("mlp.out_pre", self._linear(f"{at}.mlp.c_proj", neurons))
        write = keep("mlp.resid_delta", self._abs_topk(c, "mlp_out", write))
        stream = self._act_on_stream(c, stream + write)
        return keep("resid_out", self._abs_topk(c, "resid_post_mlp", stream))

    def _attention(self, c: dict, layer: int, read: Tensor) -> Tensor:
        at, keep = f"transformer.h.{layer}.attn", self._keeper(layer)
        heads, size = c["n_head"], c["d_head"]
        parts = self._linear(f"{at}.c_attn", read).split(heads * size, dim=-1)
        q, k, v = (
            keep(f"attn.{name}", self._abs_topk(c, f"attn_{name}", keep(f"attn.{name}_pre", part)))
            for name, part in zip("qkv", parts, strict=True)
        )
        n = read.shape[1]
        outputs, patterns = [], []
        for head in range(heads):
            own = slice(head * size, (head + 1) * size)
            scores = q[..., own] @ k[..., own].transpose(1, 2) / math.sqrt(size)
            future = torch.arange(n)[None, :] > torch.arange(n)[:, None]
            scores = scores.masked_fill(future, -math.inf)
            if c["sink"]:
                sink = self.weights[f"{at}.attn_imp.sink_logit"][head]
                scores = torch.cat([scores, sink.expand(*scores.shape[:2], 1)], dim=-1)
            pattern = scores.softmax(-1)[..., :n]
            patterns.append(pattern)
            outputs.append(pattern @ v[..., own])
        keep("attn.pattern", torch.stack(patterns, 1))
        return self._linear(f"{at}.c_proj", keep("attn.y", torch.cat(outputs, -1)))

    def _read(self, c: dict, norm: str, position_norm: str, stream: Tensor, positions: Tensor):
        normed = self._norm(c, norm, stream)
        if c["d_pos_emb"] is None:
            return normed
        return torch.cat([normed, self._norm(c, position_norm, positions)], dim=-1)

    def _norm(self, c: dict, name: str, x: Tensor) -> Tensor:
        gain = self.weights[f"{name}.weight"]
        if c["rms_norm"]:
            return F.rms_norm(x, gain.shape, gain, eps=torch.finfo(torch.float32).eps)
        return F.layer_norm(x, gain.shape, gain, self.weights.get(f"{name}.bias"), eps=1e-5)

    def _linear(self, name: str, x: Tensor) -> Tensor:
        return F.linear(x, self.weights[f"{name}.weight"], self.weights.get(f"{name}.bias"))

    def _act_on_stream(self, c: dict, stream: Tensor) -> Tensor:
        return F.relu(stream) if c["residual_activation_type"] == "relu" else stream

    def _abs_topk(self, c: dict, place: str, x: Tensor) -> Tensor:
        if c["afrac"] is None or place not in c["afrac_loctypes"].split(","):
            return x
        kept = int(c["afrac"] * x.shape[-1])
        ordered, order = x.abs().sort(dim=-1, descending=True)
        if kept < x.shape[-1]:
            gap = (ordered[..., kept - 1] - ordered[..., kept])[ordered[..., kept] > 0]
            self.margin = min([self.margin, *gap.flatten().tolist()])
        rank = order.argsort(dim=-1)
        return torch.where(rank < kept, x, torch.zeros_like(x))

    def _keeper(self, layer: int):
        def keep(name: str, value: Tensor) -> Tensor:
            self.activations[f"{layer}.{name}"] = value
            return value

        return keep


HOOKS = {
    "resid_in": "hook_resid_pre",
    "attn.act_in": "attn.hook_input",
    "attn.q_pre": "attn.hook_q_pre",
    "attn.k_pre": "attn.hook_k_pre",
    "attn.v_pre": "attn.hook_v_pre",
    "attn.q": "attn.hook_q",
    "attn.k": "attn.hook_k",
    "attn.v": "attn.hook_v",
    "attn.pattern": "attn.hook_pattern",
    "attn.y": "attn.hook_z",
    "attn.out_pre": "attn.hook_out_pre",
    "attn.resid_delta": "hook_attn_out",
    "resid_mid": "hook_resid_mid",
    "mlp.act_in": "mlp.hook_input",
    "mlp.pre_act": "mlp.hook_pre",
    "mlp.post_act": "mlp.hook_post",
    "mlp.out_pre": "mlp.hook_out_pre",
    "mlp.resid_delta": "hook_mlp_out",
    "resid_out": "hook_resid_post",
}
"""Where an activation of a layer is to be found in TransformerLens."""


def hook_name(released_name: str, n_layers: int) -> str:
    """The hook point of a recorded activation."""
    if released_name == "final_resid":
        return f"blocks.{n_layers - 1}.hook_resid_post"
    layer, name = released_name.split(".", 1)
    return f"blocks.{layer}.{HOOKS[name]}"


def random_config(seed: int) -> dict[str, Any]:
    """A config of a tiny model, with everything that a config can say decided at random."""
    choose = random.Random(seed)
    n_head = choose.choice([1, 2, 3, 4])
    d_model = choose.choice([12, 24])
    config: dict[str, Any] = {
        "block_size": 9,
        "vocab_size": 17,
        "n_layer": choose.choice([1, 2, 3]),
        "n_head": n_head,
        "d_model": d_model,
        "bias": choose.random() < 0.7,
        "ln_bias": choose.random() < 0.7,
        "rms_norm": choose.random() < 0.5,
        "activation_type": choose.choice(["gelu", "relu"]),
        "residual_activation_type": choose.choice(["identity", "identity", "relu"]),
        "tied_unembed": choose.random() < 0.4,
        "sink": choose.random() < 0.5,
        "enable_bigram_table": choose.random() < 0.5,
        "learnable_bigram_table": choose.random() < 0.5,
        "d_pos_emb": choose.choice([None, None, 6, d_model]),
    }
    config["sinusoidal_cat_pos_emb"] = config["d_pos_emb"] is not None and choose.random() < 0.5
    config["d_head"] = choose.choice([None, 4, 5, 8])
    if config["d_head"] is None and choose.random() < 0.5:
        del config["d_head"]
    _choose_mlp(config, choose)
    _choose_abs_topk(config, choose)
    return config


def _choose_mlp(config: dict[str, Any], choose: random.Random) -> None:
    key = choose.choice(["d_mlp", "n_mlp", None])
    if key is not None:
        config[key] = choose.choice([10, 32]) if key == "n_mlp" else choose.choice([None, 10, 32])


def _choose_abs_topk(config: dict[str, Any], choose: random.Random) -> None:
    config["afrac"] = choose.choice([None, 0.2, 0.25, 0.29, 0.5, 0.7, 1.0])
    if choose.random() < 0.8:
        places = choose.sample(PLACES, choose.randint(0, len(PLACES)))
        config["afrac_loctypes"] = ",".join(places)
    widths = [config["n_head"] * filled(config)["d_head"], filled(config)["d_mlp"]]
    if config["afrac"] is not None and int(config["afrac"] * min(widths)) == 0:
        config["afrac"] = 0.5


HARMLESS = {
    "dropout": 0.1,
    "dropout_cat_pos_emb": True,
    "debug_nans": False,
    "pfrac": 0.125,
    "expansion_factor": 2.0,
    "expansion_factor_mlp": 4,
    "bigram_table_rank": 32,
    "debug_exact_topk": False,
    "sparse_matmul_impl": "triton",
    "afrac_approx": True,
    "ignore_dw_grad": True,
    "rtopk": True,
    "n_embd": 768,
    "use_tied_aux_matrix": False,
    "enable_sparse_kernels": True,
    "flash": True,
    "grad_checkpointing": True,
    "some_feature_of_another_day": None,
}
"""Keys of real files that leave the forward pass as it is."""
