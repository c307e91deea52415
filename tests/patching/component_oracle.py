"""A circuit of a component graph run the slow way: a loop over readers and writers, no hooks.

What TransformerLens's modules do inside (norms, attention, MLPs) is theirs; the streams between
them are made here, one per reader, as a sum over writers.
"""

from typing import Any

import torch
from torch import Tensor
from transformer_lens import HookedTransformer
from transformer_lens.utilities.architectures import POST_NORM_ARCHITECTURES

from sparse_lens.graphs import ComponentGraph


class SlowModel:
    """A model as a list of writers and readers."""

    def __init__(self, model: HookedTransformer, graph: ComponentGraph) -> None:
        self.model: Any = model
        self.graph = graph
        self.sparse = getattr(model, "sparse_cfg", None)
        self.post_norm = model.cfg.original_architecture in POST_NORM_ARCHITECTURES

    def run(
        self, tokens: Tensor, kept: Tensor | None = None, ablated: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Logits and all writers' outputs `[writers, batch, pos, d_model]` of a circuit.

        `kept` holds the mask of each edge `[readers, writers]`; None runs the whole model.
        `ablated` broadcasts to the writers' outputs; None stands for zero.
        """
        model, graph = self.model, self.graph
        if kept is None:
            kept = torch.ones(graph.n_readers, graph.n_writers)
        written: list[Tensor] = []
        constants: list[Tensor] = []

        def seen(row: int, up_to_layer: int) -> Tensor:
            count = int(graph.edge_support["edges"][row].sum())
            live = torch.stack(written[:count])
            other = torch.zeros_like(live) if ablated is None else ablated[:count]
            masks = kept[row, :count, None, None, None]
            return sum(constants[:up_to_layer]) + (masks * live + (1 - masks) * other).sum(0)

        stream, _, positions, _ = model.input_to_embed(tokens)
        if graph.split_embeddings:
            written += [model.embed(tokens), model.pos_embed(tokens)]
        else:
            written.append(stream)
        for layer, block in enumerate(model.blocks):
            rows = graph.heads(layer).readers
            streams = [seen(row, layer) for row in range(rows.start, rows.stop)]
            heads, constant = self.attention(block, streams, positions)
            written += heads
            constants.append(constant)
            if not graph.attn_only:
                before = layer if graph.parallel else layer + 1
                written.append(
                    self.mlp(block, seen(graph.mlp(layer).readers.start, before), positions)
                )
        final = seen(graph.n_readers - 1, graph.n_layers)
        logits = model(final, start_at_layer=graph.n_layers, tokens=tokens)
        return logits, torch.stack([w.expand(final.shape) for w in written])

    def attention(self, block: Any, streams: list[Tensor], positions: Tensor | None):
        """Outputs of all heads given each one's q, k and v stream, and what joins them always."""
        attn, n = block.attn, self.graph.n_heads
        found: dict[str, Tensor] = {}
        inputs = [torch.stack(streams[i * n : (i + 1) * n], 2) for i in range(3)]
        if self.sparse is not None:
            spread = None if positions is None else positions[:, :, None]
            inputs = [block.read_attn(x, spread) for x in inputs]
        elif not self.post_norm:
            # One head after the other, since some norms check that there are three axes.
            inputs = [torch.stack([block.ln1(x) for x in y.unbind(2)], 2) for y in inputs]
        cfg = self.model.cfg
        flags = ("use_split_qkv_input", "ungroup_grouped_query_attention")
        before = {flag: getattr(cfg, flag) for flag in flags}
        handle = attn.hook_z.register_forward_hook(lambda m, a, out: found.update(z=out))
        try:
            for flag in flags:
                setattr(cfg, flag, True)
            out = attn(*inputs)
        finally:
            handle.remove()
            for flag, value in before.items():
                setattr(cfg, flag, value)
        each = [found["z"][:, :, head] @ attn.W_O[head] for head in range(n)]
        return self.shares(block, each, out)

    def shares(self, block: Any, each: list[Tensor], out: Tensor) -> tuple[list[Tensor], Tensor]:
        """Through a gate or norm that stands between the heads and the stream."""
        bias = block.attn.b_O
        if self.sparse is not None and self.sparse.has_abs_topk("attn_out"):
            gate = out != 0
            return [(one + bias / len(each)) * gate for one in each], torch.zeros_like(bias)
        if self.post_norm:
            norm = block.ln1
        elif self.model.cfg.use_normalization_before_and_after:
            norm = block.ln1_post
        else:
            return each, bias
        centred = out - out.mean(-1, keepdim=True) if hasattr(norm, "b") else out
        scale = norm.hook_scale((centred.pow(2).mean(-1, keepdim=True) + norm.eps).sqrt())
        shares = []
        for one in each:
            share = one + bias / len(each)
            if hasattr(norm, "b"):
                share = share - share.mean(-1, keepdim=True)
            shares.append(share / scale * norm.w)
        constant = norm.b if hasattr(norm, "b") else torch.zeros_like(bias)
        return shares, constant

    def mlp(self, block: Any, stream: Tensor, positions: Tensor | None) -> Tensor:
        """An MLP's output given its stream."""
        if self.sparse is not None:
            return block.apply_mlp(block.read_mlp(stream, positions))
        return block.apply_mlp(stream if self.post_norm else block.ln2(stream))


def edge_mask(graph: ComponentGraph, circuit: Any) -> Tensor:
    """The kept edges of a circuit as numbers."""
    return circuit.edge_mask("edges").double()
