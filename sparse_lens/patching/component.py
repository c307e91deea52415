"""The masked forward pass on a component graph.

The input of every reader is the live residual stream plus, summed over the writers before it,
(1 - m) * (ablated - live). Queries, keys and values are intercepted where they come out of their
projections: the streams of all heads of a layer are made in one matrix product, normed and
projected together, and no flag of TransformerLens makes it split its inputs.
"""

from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from transformer_lens import HookedTransformer

from sparse_lens.graphs.component import EDGES, LETTERS, ComponentGraph
from sparse_lens.masks import Masks
from sparse_lens.patching.hooks import Attachment, Edit, merged
from sparse_lens.patching.mixing import Store
from sparse_lens.patching.reading import AttentionReader
from sparse_lens.patching.writers import WriterOutputs

Ablated = Float[Tensor, "writers batch_or_1 pos_or_1 d_model"]


def component_attachment(
    model: HookedTransformer, masks: Masks, ablated: Ablated | None
) -> Attachment:
    """Hooks that make the model the circuit; `ablated` holds all writers' values (None: zero)."""
    pass_ = _MaskedPass(model, masks, ablated)
    return Attachment(model, edits=pass_.edits, captures=pass_.captures, flags=needed_flags(model))


def needed_flags(model: HookedTransformer) -> dict[str, bool]:
    """Flags under which MLPs have an input of their own and grouped heads keys of their own."""
    flags = {}
    if not model.cfg.attn_only:
        flags["use_hook_mlp_in"] = True
    if model.cfg.n_key_value_heads is not None:
        flags["ungroup_grouped_query_attention"] = True
    return flags


class _MaskedPass:
    """State of one masked forward pass after the other."""

    def __init__(self, model: HookedTransformer, masks: Masks, ablated: Ablated | None) -> None:
        graph = masks.graph
        assert isinstance(graph, ComponentGraph)
        self.model, self.graph, self.ablated = model, graph, ablated
        self.soft = any(
            mask.requires_grad for mask in (*masks.nodes.values(), *masks.edges.values())
        )
        self.cut = self._cut(masks)
        active = torch.ones(self.cut.shape, dtype=torch.bool) if self.soft else self._active()
        self.rows_active = active.any(-1).tolist()
        self.columns_active = active.any(0).tolist()
        self.store: Store | None = None
        self.edits: dict[str, Edit] = {}
        self.captures: dict[str, Edit] = {}
        if any(self.rows_active):
            self._attach()

    def _cut(self, masks: Masks) -> Float[Tensor, "readers writers"]:
        """Share of the ablated value on each edge, 0 where there is no edge."""
        device = self.model.cfg.device
        support = self.graph.edge_support[EDGES].to(device)
        kept = masks.edges.get(EDGES)
        kept = torch.ones(support.shape, device=device) if kept is None else kept.to(device)
        gates = [
            masks.nodes[name].to(device) if name in masks.nodes else kept.new_ones(site.width)
            for name, site in self.graph.sites.items()
            if name != "logits"
        ]
        return (1 - kept * torch.cat(gates)) * support

    def _active(self) -> Bool[Tensor, "readers writers"]:
        """Cut edges into readers that matter: a head that nobody hears need not be computed."""
        graph = self.graph
        heard = (self.cut < graph.edge_support[EDGES].to(self.cut)).any(0)
        owner = graph.ends[EDGES].dst.to(self.cut.device)
        matters = torch.cat([heard, heard.new_ones(1)])[owner]
        for layer in range(graph.n_layers):
            matters[graph.mlp_reader(layer)] = True  # costs nothing more: one stream, one reader
        return ((self.cut != 0) & matters[:, None]).cpu()

    def _attach(self) -> None:
        outputs = WriterOutputs(self.model, self.graph, self._write)
        self.captures |= outputs.captures
        for layer in range(self.graph.n_layers):
            _HeadInputs(self, layer)
            if not self.graph.attn_only:
                row = self.graph.mlp_reader(layer)
                self.edits[f"blocks.{layer}.hook_mlp_in"] = self._stream_edit(row)
        final = f"blocks.{self.graph.n_layers - 1}.hook_resid_post"
        self.edits[final] = self._stream_edit(self.graph.logits_reader)

    def _write(self, live: Float[Tensor, "writers batch pos d_model"], columns: slice) -> None:
        if columns.start == 0:
            self._check_batch(live)
            self.store = Store(self.graph.n_writers, live[0])
        if self.store is None:
            raise RuntimeError(
                "a circuit runs from the embedding on; start_at_layer is not supported."
            )
        if any(self.columns_active[columns]):
            ablated = None if self.ablated is None else self.ablated[columns]
            self.store.write(live, ablated, columns)
        else:
            self.store.written = columns.stop

    def _check_batch(self, live: Tensor) -> None:
        if self.ablated is None:
            return
        for given, wanted in zip(self.ablated.shape[1:3], live.shape[1:3], strict=True):
            if given not in (1, wanted):
                raise ValueError(
                    f"the ablated values are for tokens of shape {tuple(self.ablated.shape[1:3])}, "
                    f"the circuit runs on {tuple(live.shape[1:3])}; bind the ablation to these."
                )

    def changed_streams(
        self, stream: Float[Tensor, "batch pos d_model"], rows: list[int]
    ) -> Float[Tensor, "rows batch pos d_model"]:
        """The streams that some readers see."""
        assert self.store is not None
        mixed = self.store.mix(self.cut[rows])
        return mixed.view(len(rows), *stream.shape) + stream

    def _stream_edit(self, rows: slice) -> Edit:
        def edit(stream: Tensor) -> Tensor | None:
            if not self.rows_active[rows.start]:
                return None
            return self.changed_streams(stream, [rows.start])[0]

        return edit


class _HeadInputs:
    """Queries, keys and values of a layer's heads from the streams that these see."""

    def __init__(self, pass_: _MaskedPass, layer: int) -> None:
        self._pass = pass_
        graph = pass_.graph
        self._active = {  # by letter: the heads to compute
            letter: [
                head
                for head, row in enumerate(_range(graph.head_readers(layer, letter)))
                if pass_.rows_active[row]
            ]
            for letter in LETTERS
        }
        self._rows = [
            graph.head_readers(layer, letter).start + head
            for letter in LETTERS
            for head in self._active[letter]
        ]
        if not self._rows:
            return
        self._attn: Any = pass_.model.blocks[layer].attn
        self._read = AttentionReader(pass_.model, layer)
        self._stream: Tensor | None = None
        self._projected: dict[str, Tensor] = {}
        # Others may want the same values: the embedding the first stream, all layers positions.
        wanted = {f"blocks.{layer}.hook_resid_pre": self._keep_stream} | self._read.captures
        pass_.captures = merged(pass_.captures, wanted)
        pre = "_pre" if hasattr(pass_.model, "sparse_cfg") else ""
        for letter in LETTERS:
            if self._active[letter]:
                name = f"blocks.{layer}.attn.hook_{letter}{pre}"
                pass_.edits[name] = self._replace(letter)

    def _keep_stream(self, stream: Tensor) -> None:
        self._stream, self._projected = stream, {}

    def _replace(self, letter: str) -> Edit:
        def edit(found: Float[Tensor, "batch pos head d_head"]) -> Tensor:
            if not self._projected:
                self._project()
            heads = self._active[letter]
            new = self._projected.pop(letter).permute(1, 2, 0, 3)  # [batch, pos, active, d_head]
            if len(heads) == found.shape[2]:
                return new.to(found.dtype)
            index = torch.tensor(heads, device=found.device)
            return found.index_copy(2, index, new.to(found.dtype))

        return edit

    def _project(self) -> None:
        assert self._stream is not None
        read = self._read(self._pass.changed_streams(self._stream, self._rows))
        batch, pos = read.shape[1:3]
        weights, biases = [], []
        for letter in LETTERS:
            if self._active[letter]:
                weights.append(
                    _chosen(getattr(self._attn, f"W_{letter.upper()}"), self._active[letter])
                )
                biases.append(
                    _chosen(getattr(self._attn, f"b_{letter.upper()}"), self._active[letter])
                )
        weight, bias = torch.cat(weights), torch.cat(biases)
        out = torch.baddbmm(
            bias[:, None], read.flatten(1, 2), weight
        )  # [rows, batch * pos, d_head]
        parts = out.unflatten(1, (batch, pos)).split([len(w) for w in weights])
        letters = [letter for letter in LETTERS if self._active[letter]]
        self._projected = dict(zip(letters, parts, strict=True))


def _chosen(heads: Tensor, chosen: list[int]) -> Tensor:
    return heads if len(chosen) == len(heads) else heads[chosen]


def _range(rows: slice) -> range:
    return range(rows.start, rows.stop)
