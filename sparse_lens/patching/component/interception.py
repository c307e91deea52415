"""Readers of a component graph that see other streams than the one that flows."""

from functools import partial
from typing import Any

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor
from transformer_lens import HookedTransformer

from sparse_lens.graphs.component import LETTERS, ComponentGraph, Sublayer
from sparse_lens.models.anatomy import anatomy_of
from sparse_lens.patching.component.forward_state import ForwardState
from sparse_lens.patching.component.reading import attention_reader
from sparse_lens.patching.hooks import Hooks
from sparse_lens.patching.norms import NormScales


def intercept_readers(
    model: HookedTransformer,
    graph: ComponentGraph,
    state: ForwardState,
    edits: Hooks,
    captures: Hooks,
    scales: NormScales | None = None,
) -> dict[str, bool]:
    """Add the edits of readers; the flags of TransformerLens under which these work."""
    intercepted, anatomy = state.cuts.intercepted, anatomy_of(model)
    split_heads = mlps = False
    for sublayer in graph.sublayers:
        if not any(intercepted[sublayer.readers]):
            continue
        if sublayer.kind == "mlp":
            mlps = True
            stream = _InterceptStream(state, sublayer.readers)
            edits.add(anatomy.mlp_in(sublayer.layer), stream)
            continue
        heads = {
            letter: [head for head, cut in enumerate(intercepted[rows]) if cut]
            for letter in LETTERS
            for rows in [sublayer.readers_of(letter)]
        }
        _InterceptHeads(model, state, sublayer, heads, scales).attach(edits, captures)
        split_heads |= bool(heads["k"] or heads["v"])
    if any(intercepted[graph.logits_reader]):
        edits.add(anatomy.final_stream, _InterceptStream(state, graph.logits_reader))
    return reader_flags(model, heads=split_heads, mlps=mlps)


def reader_flags(model: HookedTransformer, *, heads: bool, mlps: bool) -> dict[str, bool]:
    """Flags under which MLPs have an input of their own, and grouped heads their own k and v.

    Raises:
        ValueError: for a model of which TransformerLens cannot separate the grouped heads.
    """
    anatomy = anatomy_of(model)
    flags = {"use_hook_mlp_in": True} if mlps else {}
    if not (heads and anatomy.grouped_heads):
        return flags
    if anatomy.joint_qk_norm:
        raise ValueError(
            "this model normalises the keys of all key heads together, so that TransformerLens "
            "cannot give each query head a key of its own, and edges into k and v cannot be cut "
            "one by one; circuits of nodes, on the component graph, can be run."
        )
    return flags | {"ungroup_grouped_query_attention": True}


class _InterceptStream:
    """A reader that is alone with its stream: an MLP, or the logits."""

    def __init__(self, state: ForwardState, row: slice) -> None:
        self._state, self._cut = state, state.cuts.cut[row]

    def __call__(self, stream: Float[Tensor, "batch pos d_model"]) -> Tensor:
        return self._state.store.mix(self._cut, stream)[0]


class _InterceptHeads:
    """Queries, keys and values of a layer's heads from the streams that these see."""

    def __init__(
        self,
        model: HookedTransformer,
        state: ForwardState,
        sublayer: Sublayer,
        heads: dict[str, list[int]],
        scales: NormScales | None,
    ) -> None:
        device, layer = model.cfg.device, sublayer.layer
        self._state, self._layer, self._anatomy = state, layer, anatomy_of(model)
        self._attn: Any = model.blocks[layer].attn
        self._reader = attention_reader(model, layer, scales=scales)
        self._heads = {  # by letter: the heads to compute
            letter: torch.tensor(indices, device=device)
            for letter, indices in heads.items()
            if indices
        }
        rows = [sublayer.readers_of(letter).start + h for letter in heads for h in heads[letter]]
        self._cut = state.cuts.cut[torch.tensor(rows, device=device)]
        self._stream: Tensor | None = None
        self._projected: dict[str, Tensor] = {}

    def attach(self, edits: Hooks, captures: Hooks) -> None:
        """Add the hooks."""
        captures.add(self._anatomy.attn_stream(self._layer), self._keep_stream)
        captures.update_with(self._reader.captures)
        for letter in self._heads:
            edit = partial(self._replace, letter)
            edits.add(self._anatomy.projected(self._layer, letter), edit)

    def _keep_stream(self, stream: Float[Tensor, "batch pos d_model"]) -> None:
        self._stream, self._projected = stream, {}

    def _replace(
        self, letter: str, live: Float[Tensor, "batch pos head d_head"]
    ) -> Float[Tensor, "batch pos head d_head"]:
        if not self._projected:  # the first of q, k and v makes all three
            self._projected = self._project()
        heads, projected = self._heads[letter], self._projected.pop(letter)
        cut = rearrange(projected, "head batch pos d_head -> batch pos head d_head").to(live.dtype)
        return cut if len(heads) == live.shape[2] else live.index_copy(2, heads, cut)

    def _project(self) -> dict[str, Float[Tensor, "heads batch pos d_head"]]:
        assert self._stream is not None
        weight, bias = self._weights()
        store = self._state.store
        trained = any(p.requires_grad for p in (weight, bias, *self._reader.parameters))
        if trained and torch.is_grad_enabled():
            streams = store.mix(self._cut, self._stream).flatten(1, 2)  # [head, token, d_model]
            read = self._reader.read(streams, slice(None))  # [head, token, d_in]
            out = torch.baddbmm(bias[:, None], read, weight)  # [head, token, d_head]
            out = out.unflatten(1, self._stream.shape[:2])  # [head, batch, pos, d_head]
        else:
            out = store.read(self._cut, self._stream, self._reader, weight, bias)
        parts = out.split([len(heads) for heads in self._heads.values()])
        return dict(zip(self._heads, parts, strict=True))

    def _weights(self) -> tuple[Float[Tensor, "heads d_in d_head"], Float[Tensor, "heads d_head"]]:
        """Projections of all heads to compute, and their biases: q, then k, then v."""
        weights, biases = [], []
        for letter, heads in self._heads.items():
            weight = getattr(self._attn, f"W_{letter.upper()}")
            bias = getattr(self._attn, f"b_{letter.upper()}")
            everything = len(heads) == len(weight)
            weights.append(weight if everything else weight.index_select(0, heads))
            biases.append(bias if everything else bias.index_select(0, heads))
        return torch.cat(weights), torch.cat(biases)
