"""A circuit of a channel graph run the slow way: every weight matrix split into kept and cut.

Attention between q, k, v and the pattern, activation functions and AbsTopK are the model's own
modules; everything that a mask acts on is written out here.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from sparse_lens.circuit import Circuit
from sparse_lens.graphs import ChannelGraph


class SlowChannels:
    """A model as sites joined by weights."""

    def __init__(self, model: Any, graph: ChannelGraph) -> None:
        self.model, self.graph = model, graph
        self.is_sparse = hasattr(model, "sparse_cfg")

    def run(
        self,
        tokens: Tensor,
        nodes: Mapping[str, Tensor] | None = None,
        edges: Mapping[str, Tensor] | None = None,
        ablated: Mapping[str, Tensor] | None = None,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Logits, and the nodes' values before their gates by site, of a circuit.

        Masks that are not given are ones; `ablated` broadcasts to [batch, pos, width], None is 0.
        """
        self.nodes, self.edges = dict(nodes or {}), dict(edges or {})
        self.ablated, self.live = dict(ablated or {}), {}
        stream, _, positions, _ = self.model.input_to_embed(tokens)
        for layer, block in enumerate(self.model.blocks):
            stream = self.block(f"blocks.{layer}", block, stream, positions)
        if "final_resid" in self.graph.sites:
            stream = self.gate("final_resid", stream)
        logits = self.model(stream, start_at_layer=self.graph.n_layers, tokens=tokens)
        return logits, self.live

    def block(self, at: str, block: Any, stream: Tensor, positions: Tensor | None) -> Tensor:
        reads = block.read_attn(stream, positions) if self.is_sparse else normed(block.ln1, stream)
        written = self.attention(at, block, self.gate(f"{at}.attn_in", reads))
        middle = self.after_add(block, stream + written, "resid_mid")
        if self.graph.attn_only:
            return middle
        source = stream if self.graph.parallel else middle
        reads = block.read_mlp(source, positions) if self.is_sparse else normed(block.ln2, source)
        written = self.mlp(at, block, self.gate(f"{at}.mlp_in", reads))
        return self.after_add(block, middle + written, "resid_post")

    def attention(self, at: str, block: Any, reads: Tensor) -> Tensor:
        attn, gain, shift = block.attn, *affine(block, "ln1", self.is_sparse)
        values = {}
        for letter in "qkv":
            weight = getattr(attn, f"W_{letter.upper()}").transpose(1, 2).flatten(0, 1)
            bias = getattr(attn, f"b_{letter.upper()}").flatten() + weight @ shift
            out = self.through(f"{at}.attn_in", f"{at}.{letter}", weight * gain, reads) + bias
            if self.is_sparse:
                out = getattr(attn, f"abs_topk_{letter}")(out)
            values[letter] = self.gate(f"{at}.{letter}", out)
        pattern = self.pattern(attn, values, reads)
        clip = self.model.cfg.clip_qkv or torch.inf

        def attended(v: Tensor) -> Tensor:
            heads = v.clamp(-clip, clip).unflatten(-1, attn.W_O.shape[:2])
            return torch.einsum("bhqk,bkhd->bqhd", pattern, heads).flatten(2)

        v = values["v"]
        other = self.ablated.get(f"{at}.v", torch.zeros_like(v)).expand_as(v)
        weight, mask = attn.W_O.flatten(0, 1).T, self.mask(f"{at}.v->{at}.attn_out")
        out = attended(v) @ (weight * mask).T + attended(other) @ (weight * (1 - mask)).T
        out = out + attn.b_O
        return self.gate(f"{at}.attn_out", attn.abs_topk_out(out) if self.is_sparse else out)

    def pattern(self, attn: Any, values: dict[str, Tensor], reads: Tensor) -> Tensor:
        """What the model's attention makes of q, k and v."""
        found: dict[str, Tensor] = {}
        handles = [attn.hook_pattern.register_forward_hook(lambda m, a, out: found.update(p=out))]
        for letter, value in values.items():
            heads = value.unflatten(-1, attn.W_O.shape[:2])
            point = getattr(attn, f"hook_{letter}")
            handles.append(point.register_forward_hook(lambda m, a, out, heads=heads: heads))
        width = attn.W_Q.shape[1]
        dummy = torch.zeros(*reads.shape[:2], width, dtype=reads.dtype)
        try:
            attn(dummy, dummy, dummy)
        finally:
            for handle in handles:
                handle.remove()
        return found["p"]

    def mlp(self, at: str, block: Any, reads: Tensor) -> Tensor:
        mlp, gain, shift = block.mlp, *affine(block, "ln2", self.is_sparse)
        weight = mlp.W_in.T
        pre = self.through(f"{at}.mlp_in", f"{at}.mlp_post", weight * gain, reads)
        post = mlp.act_fn(pre + mlp.b_in + weight @ shift)
        post = self.gate(f"{at}.mlp_post", mlp.abs_topk_neuron(post) if self.is_sparse else post)
        out = self.through(f"{at}.mlp_post", f"{at}.mlp_out", mlp.W_out.T, post) + mlp.b_out
        return self.gate(f"{at}.mlp_out", mlp.abs_topk_out(out) if self.is_sparse else out)

    def gate(self, site: str, value: Tensor) -> Tensor:
        self.live[site] = value
        gate = self.nodes.get(site, torch.ones(value.shape[-1]))
        return gate * value + (1 - gate) * self.ablated.get(site, torch.zeros_like(value))

    def through(self, source: str, destination: str, weight: Tensor, value: Tensor) -> Tensor:
        """Kept weights carry the source's value, the others its ablated value."""
        mask = self.mask(f"{source}->{destination}")
        other = self.ablated.get(source, torch.zeros_like(value)).expand_as(value)
        return value @ (weight * mask).T + other @ (weight * (1 - mask)).T

    def mask(self, block: str) -> Tensor:
        return self.edges.get(block, torch.ones(self.graph.edge_support[block].shape))

    def after_add(self, block: Any, stream: Tensor, where: str) -> Tensor:
        if not self.is_sparse:
            return stream
        if self.model.sparse_cfg.residual_activation_type == "relu":
            stream = stream.relu()
        return getattr(block, f"abs_topk_{where}")(stream)


def normed(norm: Any, stream: Tensor) -> Tensor:
    """The stream as a norm sees it before its gain."""
    kind = type(norm).__name__
    if kind == "Identity":
        return stream
    if kind.startswith("Layer"):
        stream = stream - stream.mean(-1, keepdim=True)
    return stream / (stream.pow(2).mean(-1, keepdim=True) + norm.eps).sqrt()


def affine(block: Any, norm: str, is_sparse: bool) -> tuple[Tensor, Tensor]:
    """Gain and shift between a node that reads the stream and the weights."""
    weight = block.attn.W_Q
    width = weight.shape[1]
    gain, shift = weight.new_ones(width), weight.new_zeros(width)
    if is_sparse:  # nodes come after them
        return gain, shift
    module = getattr(block, norm)
    return getattr(module, "w", gain), getattr(module, "b", shift)


def masks_of(circuit: Circuit) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Node and edge masks as numbers; a node circuit cuts no edges."""
    nodes = {name: mask.double() for name, mask in circuit.node_masks.items()}
    kept = circuit.edge_masks or {}
    return nodes, {name: mask.double() for name, mask in kept.items()}
