"""A circuit of a channel graph: sites of channels, joined by weight matrices.

    at a site                  x becomes        n * x + (1 - n) * x~
    through a matrix           W x becomes      (W * m) x + (W * (1 - m)) x~

n masks the channels of the site and m the weights; x~ are the ablated values of the site that the
weights read. From v to attn_out both x and x~ pass the attention pattern of the circuit. Attention
between q, k, v and its pattern, activation functions and AbsTopK are the model's own modules.
"""

from collections.abc import Mapping
from typing import Any

import torch
from einops import einsum, rearrange
from jaxtyping import Float, Int
from torch import Tensor
from transformer_lens import HookedTransformer

from sparse_lens.graphs.channel import ChannelGraph
from sparse_lens.masks import Masks
from sparse_lens.models.anatomy import anatomy_of

Channels = Float[Tensor, "batch pos width"]
Stream = Float[Tensor, "batch pos d_model"]
Reads = Float[Tensor, "batch pos d_in"]


def run_channel_circuit(
    model: HookedTransformer,
    masks: Masks,
    tokens: Int[Tensor, "batch pos"],
    ablated: Mapping[str, Tensor],
) -> tuple[Float[Tensor, "batch pos vocab"], dict[str, Float[Tensor, "batch pos _"]]]:
    """Logits, and the values of all sites before they are masked."""
    run = _Run(model, masks, ablated)
    return run.logits(tokens), run.live


class _Run:
    """One forward pass."""

    def __init__(
        self, model: HookedTransformer, masks: Masks, ablated: Mapping[str, Tensor]
    ) -> None:
        assert isinstance(masks.graph, ChannelGraph)
        self.model, self.graph, self.masks, self.ablated = model, masks.graph, masks, ablated
        self.anatomy = anatomy_of(model)
        self.live: dict[str, Channels] = {}

    # What masks do.

    def at_site(self, site: str, live: Channels) -> Channels:
        """Each channel as far as its node is kept, and its ablated value as far as it is not."""
        self.live[site] = live
        kept = self.masks.nodes.get(site, live.new_ones(live.shape[-1]))
        return kept * live + (1 - kept) * self.ablated_like(site, live)

    def through(
        self,
        source: str,
        destination: str,
        weight: Float[Tensor, "dst src"],
        live: Float[Tensor, "batch pos src"],
        ablated: Float[Tensor, "batch pos src"],
    ) -> Float[Tensor, "batch pos dst"]:
        """What weights carry: kept ones the source's value, cut ones its ablated value."""
        kept = self.masks.edges.get(f"{source}->{destination}", torch.ones_like(weight))
        return live @ (weight * kept).T + ablated @ (weight * (1 - kept)).T

    def ablated_like(self, site: str, live: Channels) -> Channels:
        return self.ablated.get(site, torch.zeros_like(live)).expand_as(live)

    # What the model does.

    def logits(self, tokens: Int[Tensor, "batch pos"]) -> Float[Tensor, "batch pos vocab"]:
        stream, _, positions, _ = self.model.input_to_embed(tokens)
        for layer, block in enumerate(self.model.blocks):
            stream = self.block(f"blocks.{layer}", block, stream, positions)
        if self.graph.has_final_resid:
            stream = self.at_site("final_resid", stream)
        return self.model(stream, start_at_layer=self.graph.n_layers, tokens=tokens)

    def block(self, at: str, block: Any, stream: Stream, positions: Tensor | None) -> Stream:
        """The stream after a block; `positions` are concatenated to what its sublayers read."""
        # A node that reads the stream comes before the norm's gain, or at the end of all that is
        # done to the stream.
        before_gain = self.anatomy.channels_precede_gain
        read = normed(block.ln1, stream) if before_gain else block.read_attn(stream, positions)
        middle = self.add(block, stream, self.attention(at, block, read), "resid_mid")
        if self.graph.attn_only:
            return middle
        seen = stream if self.graph.parallel else middle
        read = normed(block.ln2, seen) if before_gain else block.read_mlp(seen, positions)
        return self.add(block, middle, self.mlp(at, block, read), "resid_post")

    def add(self, block: Any, stream: Stream, written: Stream, point: str) -> Stream:
        """To the stream, on which a sparse GPT may let a ReLU and an AbsTopK act."""
        stream = stream + written
        sparse_cfg = getattr(block, "sparse_cfg", None)
        if sparse_cfg is not None and sparse_cfg.residual_activation_type == "relu":
            stream = stream.relu()
        return abs_topk(block, point, stream)

    def attention(self, at: str, block: Any, read: Reads) -> Stream:
        attn, (gain, shift) = block.attn, self.gain_and_shift(block.ln1, read)
        read = self.at_site(f"{at}.attn_in", read)
        ablated_read = self.ablated_like(f"{at}.attn_in", read)
        values = {}
        for letter in "qkv":
            weight = getattr(attn, f"W_{letter.upper()}")
            weight = rearrange(weight, "head d_in d_head -> (head d_head) d_in")
            bias = getattr(attn, f"b_{letter.upper()}").flatten() + weight @ shift
            edge = (f"{at}.attn_in", f"{at}.{letter}")
            out = self.through(*edge, weight * gain, read, ablated_read) + bias
            values[letter] = self.at_site(f"{at}.{letter}", abs_topk(attn, letter, out))
        pattern = attention_pattern(attn, values)
        clip = self.model.cfg.clip_qkv or torch.inf

        def attended(v: Channels) -> Channels:
            heads = rearrange(v.clamp(-clip, clip), "b pos (h d) -> b pos h d", h=attn.W_O.shape[0])
            z = einsum(pattern, heads, "b head query key, b key head d -> b query head d")
            return rearrange(z, "b pos head d -> b pos (head d)")

        ablated_v = self.ablated_like(f"{at}.v", values["v"])
        weight = rearrange(attn.W_O, "head d_head d_model -> d_model (head d_head)")
        edge = (f"{at}.v", f"{at}.attn_out")
        out = self.through(*edge, weight, attended(values["v"]), attended(ablated_v)) + attn.b_O
        return self.at_site(f"{at}.attn_out", abs_topk(attn, "out", out))

    def mlp(self, at: str, block: Any, read: Reads) -> Stream:
        mlp, (gain, shift) = block.mlp, self.gain_and_shift(block.ln2, read)
        read = self.at_site(f"{at}.mlp_in", read)
        edge, ablated = (f"{at}.mlp_in", f"{at}.mlp_post"), self.ablated_like(f"{at}.mlp_in", read)
        pre = self.through(*edge, mlp.W_in.T * gain, read, ablated) + mlp.b_in + mlp.W_in.T @ shift
        post = self.at_site(f"{at}.mlp_post", abs_topk(mlp, "neuron", mlp.act_fn(pre)))
        edge, ablated = (f"{at}.mlp_post", f"{at}.mlp_out"), self.ablated_like(edge[1], post)
        out = self.through(*edge, mlp.W_out.T, post, ablated) + mlp.b_out
        return self.at_site(f"{at}.mlp_out", abs_topk(mlp, "out", out))

    def gain_and_shift(self, norm: Any, read: Reads) -> tuple[Tensor, Tensor]:
        """What stands between a node that reads the stream and the weights."""
        ones, zeros = read.new_ones(read.shape[-1]), read.new_zeros(read.shape[-1])
        if not self.anatomy.channels_precede_gain:
            return ones, zeros
        return getattr(norm, "w", ones), getattr(norm, "b", zeros)


def abs_topk(module: Any, place: str, value: Tensor) -> Tensor:
    """The largest channels, where a sparse GPT keeps no others; else all."""
    return getattr(module, f"abs_topk_{place}", lambda value: value)(value)


def normed(norm: Any, stream: Stream) -> Stream:
    """What a norm makes of the stream before its gain."""
    kind = type(norm).__name__
    if kind == "Identity":
        return stream
    if kind.startswith("Layer"):
        stream = stream - stream.mean(-1, keepdim=True)
    return stream / (stream.pow(2).mean(-1, keepdim=True) + norm.eps).sqrt()


def attention_pattern(
    attn: Any, values: Mapping[str, Channels]
) -> Float[Tensor, "batch head query key"]:
    """What the model's attention makes of given q, k and v."""
    patterns: list[Tensor] = []
    handles = [
        attn.hook_pattern.register_forward_hook(lambda module, args, out: patterns.append(out))
    ]
    for letter, value in values.items():
        heads = rearrange(value, "b pos (head d) -> b pos head d", head=attn.W_O.shape[0])
        point = getattr(attn, f"hook_{letter}")
        # A hook that returns something puts it in place of what the module computed.
        handles.append(point.register_forward_hook(lambda module, args, out, heads=heads: heads))
    batch, pos = values["q"].shape[:2]
    anything = values["q"].new_zeros(batch, pos, attn.W_Q.shape[1])
    try:
        attn(anything, anything, anything)
    finally:
        for handle in handles:
            handle.remove()
    return patterns[0]
