"""Readers of a component graph that see other streams than the one that flows."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from transformer_lens import HookedTransformer

from sparse_lens.graphs.component import LETTERS, ComponentGraph, Sublayer
from sparse_lens.patching.component.reading import attention_reader
from sparse_lens.patching.component.run import Run
from sparse_lens.patching.component.writers import has_joint_qk_norm
from sparse_lens.patching.hooks import Hooks
from sparse_lens.patching.norms import NormScales


def intercept_readers(
    model: HookedTransformer,
    graph: ComponentGraph,
    run: Run,
    edits: Hooks,
    captures: Hooks,
    scales: NormScales | None = None,
) -> dict[str, bool]:
    """Add the edits of readers; the flags of TransformerLens under which these work."""
    intercepted = run.plan.intercepted
    split_heads = mlps = False
    for sublayer in graph.sublayers:
        if not any(intercepted[sublayer.readers]):
            continue
        if sublayer.kind == "mlp":
            mlps = True
            stream = _InterceptStream(run, sublayer.readers)
            edits.add(f"blocks.{sublayer.layer}.hook_mlp_in", stream)
            continue
        heads = {
            letter: [head for head, cut in enumerate(intercepted[rows]) if cut]
            for letter in LETTERS
            for rows in [sublayer.readers_of(letter)]
        }
        _InterceptHeads(model, run, sublayer, heads, scales).attach(edits, captures)
        split_heads |= bool(heads["k"] or heads["v"])
    if any(intercepted[graph.logits_reader]):
        final = f"blocks.{graph.n_layers - 1}.hook_resid_post"
        edits.add(final, _InterceptStream(run, graph.logits_reader))
    return reader_flags(model, heads=split_heads, mlps=mlps)


def reader_flags(model: HookedTransformer, *, heads: bool, mlps: bool) -> dict[str, bool]:
    """Flags under which MLPs have an input of their own, and grouped heads their own k and v.

    Raises:
        ValueError: for a model of which TransformerLens cannot separate the grouped heads.
    """
    cfg = model.cfg
    flags = {"use_hook_mlp_in": True} if mlps else {}
    if not heads or cfg.n_key_value_heads is None:
        return flags
    if has_joint_qk_norm(model) and cfg.n_key_value_heads != cfg.n_heads:
        raise ValueError(
            f"{cfg.original_architecture} normalises the keys of all key heads together, so that "
            "TransformerLens cannot give each query head a key of its own, and edges into k and v "
            "cannot be cut one by one; circuits of nodes, on the component graph, can be run."
        )
    return flags | {"ungroup_grouped_query_attention": True}


class _InterceptStream:
    """A reader that is alone with its stream: an MLP, or the logits."""

    def __init__(self, run: Run, row: slice) -> None:
        self._run, self._cut = run, run.plan.cut[row]

    def __call__(self, stream: Float[Tensor, "batch pos d_model"]) -> Tensor:
        return self._run.store.mix(self._cut, stream)[0]


class _InterceptHeads:
    """Queries, keys and values of a layer's heads from the streams that these see."""

    def __init__(
        self,
        model: HookedTransformer,
        run: Run,
        sublayer: Sublayer,
        heads: dict[str, list[int]],
        scales: NormScales | None,
    ) -> None:
        device, layer = model.cfg.device, sublayer.layer
        self._run, self._at = run, f"blocks.{layer}"
        self._attn: Any = model.blocks[layer].attn
        self._reader = attention_reader(model, layer, scales=scales)
        self._pre = "_pre" if getattr(model, "sparse_cfg", None) is not None else ""
        self._heads = {  # by letter: the heads to compute
            letter: torch.tensor(chosen, device=device)
            for letter, chosen in heads.items()
            if chosen
        }
        rows = [sublayer.readers_of(letter).start + h for letter in heads for h in heads[letter]]
        self._cut = run.plan.cut[torch.tensor(rows, device=device)]
        self._stream: Tensor | None = None
        self._projected: dict[str, Tensor] = {}

    def attach(self, edits: Hooks, captures: Hooks) -> None:
        """Add the hooks."""
        captures.add(f"{self._at}.hook_resid_pre", self._keep_stream)
        captures.update_with(self._reader.captures)
        for letter in self._heads:
            edit = lambda found, letter=letter: self._replace(letter, found)  # noqa: E731
            edits.add(f"{self._at}.attn.hook_{letter}{self._pre}", edit)

    def _keep_stream(self, stream: Float[Tensor, "batch pos d_model"]) -> None:
        self._stream, self._projected = stream, {}

    def _replace(self, letter: str, found: Float[Tensor, "batch pos head d_head"]) -> Tensor:
        if not self._projected:
            self._projected = self._project()
        heads = self._heads[letter]
        new = self._projected.pop(letter).permute(1, 2, 0, 3).to(found.dtype)
        return new if len(heads) == found.shape[2] else found.index_copy(2, heads, new)

    def _project(self) -> dict[str, Float[Tensor, "heads batch pos d_head"]]:
        assert self._stream is not None
        weight, bias = self._weights()
        store = self._run.store
        trained = any(p.requires_grad for p in (weight, bias, *self._reader.parameters))
        if trained and torch.is_grad_enabled():
            streams = store.mix(self._cut, self._stream).flatten(1, 2)
            read = self._reader.read(streams, slice(None))
            out = torch.baddbmm(bias[:, None], read, weight)
            out = out.unflatten(1, self._stream.shape[:2])
        else:
            out = store.read(self._cut, self._stream, self._reader, weight, bias)
        parts = out.split([len(heads) for heads in self._heads.values()])
        return dict(zip(self._heads, parts, strict=True))

    def _weights(self) -> tuple[Tensor, Tensor]:
        """Of all heads to compute."""
        weights, biases = [], []
        for letter, heads in self._heads.items():
            weight = getattr(self._attn, f"W_{letter.upper()}")
            bias = getattr(self._attn, f"b_{letter.upper()}")
            everything = len(heads) == len(weight)
            weights.append(weight if everything else weight.index_select(0, heads))
            biases.append(bias if everything else bias.index_select(0, heads))
        return torch.cat(weights), torch.cat(biases)
