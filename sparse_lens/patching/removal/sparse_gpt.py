"""The masked pass of a sparse GPT's channel graph, step by step, each computed only where needed.

It computes what the hooks of `patching.channel` make of the model. Every value comes in two forms:
at all positions, and at the answer's alone. Attention at the answer position takes keys and values
at all positions and its queries there alone, so what no later layer attends to is never computed
elsewhere; nor is what only pruned nodes would read.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from sparse_lens.graphs.channel import ChannelBlock, ChannelGraph
from sparse_lens.models.sparse_gpt import HookedSparseGPT
from sparse_lens.patching.ablations.binding import BoundAblation
from sparse_lens.patching.alignment import aligned, like
from sparse_lens.patching.removal.kept import Kept
from sparse_lens.patching.removal.lazy import Lazy, Steps
from sparse_lens.patching.suspension import has_hooks_of_others, suspended
from sparse_lens.task import Prompts

At = Literal["all", "answer"]
"""All positions, or the answer's alone."""


def can_run(bound: BoundAblation, prompts: Prompts) -> bool:
    """Whether the steps here are all that acts on the model, a sparse GPT with its channel graph.

    They leave out hooks of others, those of an ablation that attaches its own, and masks of padding
    on the left.
    """
    model = bound.model
    if type(bound).attachment is not BoundAblation.attachment:
        return False
    if not (isinstance(model, HookedSparseGPT) and isinstance(bound.graph, ChannelGraph)):
        return False
    with suspended(model):
        *_, attention_mask = model.input_to_embed(prompts.clean[:1].to(bound.device))
    return attention_mask is None and not has_hooks_of_others(model)


class SparseGPTPass:
    """Passes of circuits on the same prompts."""

    @torch.no_grad()
    def __init__(self, bound: BoundAblation, prompts: Prompts) -> None:
        assert isinstance(bound.model, HookedSparseGPT)
        assert isinstance(bound.graph, ChannelGraph)
        self.model, self.graph = bound.model, bound.graph
        self.prompts = prompts.to(bound.device)
        self.answers = self.prompts.answer_positions
        with suspended(self.model):
            stream, _, positions, _ = self.model.input_to_embed(self.prompts.clean)
        self.shape = stream.shape[:2]
        self.stream = {"all": stream, "answer": self.at_answer(stream)}
        self.positions: dict[str, Tensor | None] = {"all": None, "answer": None}
        if positions is not None:  # concatenated to what sublayers read
            positions = positions.expand(*self.shape, -1)
            self.positions = {"all": positions, "answer": self.at_answer(positions)}
        self.weights = self.graph.edge_weights(self.model)
        self._ablated = self._aligned(bound)
        self._backgrounds: dict[tuple[str, At], Tensor] = {}

    def run(self, kept: Kept, base: Steps | None) -> tuple[Float[Tensor, "n vocab"], Steps]:
        """Logits at the answer positions, and the steps to which a next pass can refer."""
        steps = Steps(base)
        logits = _CircuitPass(self, kept, steps).logits()
        steps.finish()
        with suspended(self.model):  # norms have hook points
            return logits.value, steps

    def at_answer(self, values: Float[Tensor, "_ pos d"]) -> Float[Tensor, "_ 1 d"]:
        """Of values at all positions, or of ones that are the same for all prompts or positions."""
        if values.shape[1] == 1:
            return values
        rows = torch.arange(self.shape[0], device=values.device)
        return values.expand(self.shape[0], -1, -1)[rows, self.answers][:, None]

    def ablated(self, site: str, at: At) -> Float[Tensor, "#n #pos width"]:
        """What pruned nodes of a site carry."""
        return self._ablated[site, at]

    def background(self, block: ChannelBlock, at: At, bias: Tensor) -> Float[Tensor, "#n #pos dst"]:
        """What arrives over a block of edges, and the bias, when all sources are ablated."""
        key = block.name, at
        if key not in self._backgrounds:
            ablated = self.ablated(block.source.name, at)
            self._backgrounds[key] = F.linear(ablated, self.weights[block.name], bias)
        return self._backgrounds[key]

    def _aligned(self, bound: BoundAblation) -> dict[tuple[str, At], Tensor]:
        values, ablated = bound.values(self.prompts), {}
        batch, pos = self.shape
        for name, site in self.graph.sites.items():
            given = values.get(name, self.stream["all"].new_zeros(site.width))
            given = aligned(given, repr(name), leading=0, batch=batch, pos=pos)
            ablated[name, "all"] = like(given, self.stream["all"])
            ablated[name, "answer"] = self.at_answer(ablated[name, "all"])
        return ablated


class _CircuitPass:
    """The steps of one circuit."""

    def __init__(self, setting: SparseGPTPass, kept: Kept, steps: Steps) -> None:
        self._setting, self._steps = setting, steps
        self._model, self._graph = setting.model, setting.graph
        self._nodes = self._graph.unflatten(kept.nodes)
        self._edges = kept.edges

    def logits(self) -> Lazy:
        """At the answer positions."""
        model, setting = self._model, self._setting
        positions: tuple[At, At] = ("all", "answer")
        streams: dict[At, Lazy] = {
            at: self._steps.add(f"embedding {at}", lambda at=at: setting.stream[at])
            for at in positions
        }
        for layer in range(self._graph.n_layers):
            streams = self._layer(layer, streams)
        stream = streams["answer"]
        last = stream
        if self._graph.has_final_resid:
            last = self._gated("final_resid", "answer", lambda: stream.value, (stream,))

        def unembed() -> Float[Tensor, "n vocab"]:
            logits = model.unembed(model.ln_final(last.value))[:, 0]
            # Of ablated channels alone there may be one row for all prompts.
            logits = logits.expand(setting.shape[0], -1)
            if model.sparse_cfg.enable_bigram_table:
                rows = torch.arange(len(logits), device=logits.device)
                logits = logits + model.bigram_table[setting.prompts.clean[rows, setting.answers]]
            return logits

        logits = self._steps.add("logits", unembed, inputs=(last,))
        self._steps = Steps()  # steps that never run hold on to this object: not to all the others
        return logits

    def _layer(self, layer: int, streams: dict[At, Lazy]) -> dict[At, Lazy]:
        block: Any = self._model.blocks[layer]
        attended = self._attention(layer, block, streams)
        after = {}
        for at, out in attended.items():
            name = f"blocks.{layer}.resid_mid {at}"
            middle = self._added(name, streams[at], out, block.after_attn)
            out = self._mlp(layer, block, middle, at)
            name = f"blocks.{layer}.resid_post {at}"
            after[at] = self._added(name, middle, out, block.after_mlp)
        return after

    def _added(
        self, name: str, stream: Lazy, written: Lazy, add: Callable[[Tensor, Tensor], Tensor]
    ) -> Lazy:
        """The stream after a sublayer has written to it."""
        inputs = (stream, written)
        return self._steps.add(name, lambda: add(stream.value, written.value), inputs=inputs)

    def _mlp(self, layer: int, block: Any, stream: Lazy, at: At) -> Lazy:
        mlp, sites = block.mlp, f"blocks.{layer}"
        positions = self._setting.positions[at]
        read = self._gated(
            f"{sites}.mlp_in", at, lambda: block.read_mlp(stream.value, positions), (stream,)
        )
        pre = self._arrives(layer, "mlp_in", "mlp_post", read, at, mlp.b_in)
        post = self._gated(
            f"{sites}.mlp_post", at, lambda: mlp.abs_topk_neuron(mlp.act_fn(pre.value)), (pre,)
        )
        out = self._arrives(layer, "mlp_post", "mlp_out", post, at, mlp.b_out)
        return self._gated(f"{sites}.mlp_out", at, lambda: mlp.abs_topk_out(out.value), (out,))

    def _attention(self, layer: int, block: Any, streams: dict[At, Lazy]) -> dict[At, Lazy]:
        attn = block.attn
        read = {at: self._read(layer, block, stream, at) for at, stream in streams.items()}
        keys = self._projected(layer, "k", read["all"], "all", attn.b_K, attn.abs_topk_k)
        values = self._projected(layer, "v", read["all"], "all", attn.b_V, attn.abs_topk_v)
        written = {}
        for at in streams:
            queries = self._projected(layer, "q", read[at], at, attn.b_Q, attn.abs_topk_q)
            out = self._heads_write(layer, attn, queries, keys, values, at)
            written[at] = self._gated(
                f"blocks.{layer}.attn_out",
                at,
                lambda out=out: attn.abs_topk_out(out.value),
                (out,),
            )
        return written

    def _read(self, layer: int, block: Any, stream: Lazy, at: At) -> Lazy:
        """What the heads of a layer project."""
        positions = self._setting.positions[at]
        return self._gated(
            f"blocks.{layer}.attn_in",
            at,
            lambda: block.read_attn(stream.value, positions),
            (stream,),
        )

    def _projected(
        self, layer: int, letter: str, read: Lazy, at: At, bias: Tensor, abs_topk: Any
    ) -> Lazy:
        """Queries, keys or values of all heads, [n, pos, head * d_head]."""
        pre = self._arrives(layer, "attn_in", letter, read, at, bias.flatten())
        return self._gated(f"blocks.{layer}.{letter}", at, lambda: abs_topk(pre.value), (pre,))

    def _heads_write(
        self, layer: int, attn: Any, queries: Lazy, keys: Lazy, values: Lazy, at: At
    ) -> Lazy:
        """W_O z + b_O, where a cut edge takes the live pattern times the ablated values."""
        block = self._graph.block(layer, "v", "attn_out")
        weight, mask = self._setting.weights[block.name], self._edge_mask(block)
        ablated = self._setting.ablated(block.source.name, "all")

        def mixed(values: Tensor) -> Float[Tensor, "n pos z"]:
            return self._attend(attn, queries.value, keys.value, values, at)

        def compute() -> Tensor:
            z = mixed(values.value)
            written = F.linear(z, weight, attn.b_O)
            if mask is None:
                return written
            # Of values that are the same at all positions a mean is these values again, except
            # where a sink takes a share.
            is_constant = ablated.shape[1] == 1 and not self._model.cfg.use_attention_sinks
            cut = (mask.to(weight) - 1) * weight
            return written + F.linear(z - (ablated if is_constant else mixed(ablated)), cut)

        name = f"{block.name} {at}"
        inputs = (queries, keys, values)
        return self._steps.add(name, compute, inputs=inputs, masks=_given(mask))

    def _attend(
        self, attn: Any, queries: Tensor, keys: Tensor, values: Tensor, at: At
    ) -> Float[Tensor, "n pos z"]:
        """Values of all heads, mixed by their patterns."""
        n, pos = self._setting.shape
        n_heads, device = self._graph.n_heads, queries.device

        def heads(part: Tensor, length: int) -> Float[Tensor, "n head pos d_head"]:
            return part.expand(n, length, -1).unflatten(2, (n_heads, -1)).transpose(1, 2)

        q, k, v = heads(queries, pos if at == "all" else 1), heads(keys, pos), heads(values, pos)
        if at == "all":
            visible = torch.ones(pos, pos, dtype=torch.bool, device=device).tril()
        else:
            visible = torch.arange(pos, device=device) <= self._setting.answers[:, None]
            visible = visible[:, None, None]  # [n, head, query, key]
        if self._model.cfg.use_attention_sinks:
            # A key before all others with value zero, whose product with every query is the sink's
            # logit: see SparseAttention.
            q, k, v = F.pad(q, (0, 1)), F.pad(k, (0, 1, 1, 0)), F.pad(v, (0, 0, 1, 0))
            q[..., -1] = 1
            k[..., 0, -1] = attn.sinks * attn.attn_scale
            visible = F.pad(visible, (1, 0), value=True)
        z = F.scaled_dot_product_attention(q, k, v, attn_mask=visible, scale=1 / attn.attn_scale)
        return z.transpose(1, 2).flatten(2)

    def _arrives(
        self, layer: int, source: str, destination: str, live: Lazy, at: At, bias: Tensor
    ) -> Lazy:
        """What kept edges add to what arrives when all sources are ablated.

        The sum is over kept sources alone: a pruned one carries its ablated value.
        """
        block = self._graph.block(layer, source, destination)
        weight, mask = self._setting.weights[block.name], self._edge_mask(block)
        kept = self._nodes[block.source.name]

        def compute() -> Tensor:
            columns = kept.nonzero().flatten().to(weight.device)
            used = weight[:, columns]
            if mask is not None:
                used = used * mask[:, kept].to(used)
            ablated = self._setting.ablated(block.source.name, at)
            difference = live.value[..., columns] - ablated[..., columns]
            background = self._setting.background(block, at, bias)
            return F.linear(difference, used) + background

        masks = (kept, *_given(mask))
        return self._steps.add(f"{block.name} {at}", compute, inputs=(live,), masks=masks)

    def _gated(self, site: str, at: At, live: Callable[[], Tensor], inputs: Sequence[Lazy]) -> Lazy:
        """Live values at kept nodes of a site, ablated ones elsewhere."""
        kept = self._nodes[site]
        ablated = self._setting.ablated(site, at)
        if not bool(kept.any()):
            return self._steps.add(f"{site} {at}", lambda: ablated, masks=(kept,))

        def compute() -> Tensor:
            return torch.where(kept.to(ablated.device), live(), ablated)

        return self._steps.add(f"{site} {at}", compute, inputs=inputs, masks=(kept,))

    def _edge_mask(self, block: ChannelBlock) -> Bool[Tensor, "dst src"] | None:
        return None if self._edges is None else self._edges[block.name]


def _given(mask: Tensor | None) -> tuple[Tensor, ...]:
    return () if mask is None else (mask,)
