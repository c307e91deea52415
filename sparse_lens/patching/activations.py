"""The values of all nodes in a run of the full model or of a circuit, and their means."""

from collections.abc import Iterator, Mapping
from contextlib import nullcontext

import torch
from einops import einsum
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformer_lens import HookedTransformer

from sparse_lens.graphs.base import Graph
from sparse_lens.graphs.component import ComponentGraph
from sparse_lens.patching.channel.attachment import channel_flags, site_channels
from sparse_lens.patching.component.writers import Receive, WriterOutputs
from sparse_lens.patching.hooks import Attachment, Hooks
from sparse_lens.patching.suspension import suspended

Values = Mapping[str, Tensor]
"""Values by site. Channel graph: `[width]`, `[pos, width]` or `[batch, pos, width]`.
Component graph: `[width, d_model]`, `[width, pos, d_model]` or `[width, batch, pos, d_model]`."""

REFERENCE_BATCH = 32


def activations(
    model: HookedTransformer,
    graph: Graph,
    tokens: Int[Tensor, "n pos"],
    *,
    patch: Attachment | None = None,
) -> Values:
    """The values of all nodes in a run on tokens.

    Args:
        patch: the hooks that make the model a circuit; None for the full model.
    """
    if isinstance(graph, ComponentGraph):
        outputs = writer_activations(model, graph, tokens, patch=patch)
        return {name: outputs[columns] for name, columns in _writer_slices(graph)}
    values: dict[str, Tensor] = {}
    edits, captures = Hooks(), Hooks()
    for name, site in graph.sites.items():

        def capture(hook_value: Tensor, name: str = name) -> None:
            channels = site_channels(hook_value, graph.sites[name])  # [n, pos, (head,) width]
            # Under `use_attn_in` each head reads a copy of the stream, all of them equal.
            values[name] = (channels[:, :, 0] if channels.ndim == 4 else channels).detach().clone()

        captures.add(site.hook_name, capture)
    _run(model, tokens, edits, captures, channel_flags(captures), patch)
    return values


def writer_activations(
    model: HookedTransformer,
    graph: ComponentGraph,
    tokens: Int[Tensor, "n pos"],
    *,
    patch: Attachment | None = None,
) -> Float[Tensor, "writers n pos d_model"]:
    """The outputs of all writers in a run on tokens; see `activations`."""
    outputs: list[Tensor] = []  # one tensor, allocated when its shape is known

    def receive(live: Tensor, columns: slice) -> None:
        if not outputs:
            outputs.append(live.new_empty(graph.n_writers, *live.shape[1:]))
        outputs[0][columns] = live

    _receive_writers(model, graph, tokens, receive, patch)
    return outputs[0]


def mean_activations(
    model: HookedTransformer,
    graph: Graph,
    tokens: Int[Tensor, "n pos"],
    *,
    lengths: Int[Tensor, " rows"] | None = None,
    per_position: bool = False,
    batch_size: int = REFERENCE_BATCH,
) -> Values:
    """Means of all nodes' values over tokens, in float32, or in float64 for such models.

    Args:
        lengths: number of tokens of each row before the padding on its right; None for rows
            without padding.
        per_position: one mean per position, instead of one over all positions.

    Raises:
        ValueError: for no tokens, or a position at which all is padding.
    """
    n, width = tokens.shape
    is_real = torch.ones(n, width, dtype=torch.bool)  # not padding
    if lengths is not None:
        if lengths.shape != (n,):
            raise ValueError(f"{len(lengths)} lengths for {n} rows of tokens; give one for each.")
        is_real = torch.arange(width) < lengths.cpu()[:, None]
    counts = is_real.sum(0) if per_position else is_real.sum()
    if not bool((counts > 0).all()) or not counts.numel():
        raise ValueError(
            f"cannot take means over no tokens: tokens of shape {(n, width)}, of which "
            f"{counts.tolist()} a position (or in all) are not padding."
        )
    sums: dict[str, Tensor] = {}
    for rows in torch.arange(n).split(batch_size):
        for name, total in _sums(model, graph, tokens[rows.to(tokens.device)], is_real[rows]):
            total = total if per_position else total.sum(-2)
            sums[name] = sums[name] + total if name in sums else total
    return {
        name: total / (counts[:, None] if per_position else counts).to(total.device)
        for name, total in sums.items()
    }


def _sums(
    model: HookedTransformer,
    graph: Graph,
    tokens: Int[Tensor, "n pos"],
    is_real: Bool[Tensor, "n pos"],
) -> Iterator[tuple[str, Float[Tensor, "*width pos d"]]]:
    """By site, sums over the rows of tokens, without padding."""
    if isinstance(graph, ComponentGraph):
        totals: list[Tensor] = []  # by site, in the order of the writers

        def receive(live: Tensor, columns: slice) -> None:
            totals.append(_sum_of_real(live, is_real))

        _receive_writers(model, graph, tokens, receive)
        outputs = torch.cat(totals)  # [writers, pos, d_model]
        yield from ((name, outputs[columns]) for name, columns in _writer_slices(graph))
        return
    for name, value in activations(model, graph, tokens).items():
        yield name, _sum_of_real(value, is_real)


def _sum_of_real(
    values: Float[Tensor, "*writers n pos d"], is_real: Bool[Tensor, "n pos"]
) -> Float[Tensor, "*writers pos d"]:
    """The sum over rows, without padding."""
    dtype = torch.promote_types(values.dtype, torch.float32)
    weight = is_real.to(device=values.device, dtype=dtype)
    return einsum(values.to(dtype), weight, "... n pos d, n pos -> ... pos d")


def _writer_slices(graph: ComponentGraph) -> Iterator[tuple[str, slice]]:
    """By site, the slice of its writers."""
    for name in graph.valued_sites:
        yield name, graph.node_slices[name]


def _receive_writers(
    model: HookedTransformer,
    graph: ComponentGraph,
    tokens: Int[Tensor, "n pos"],
    receive: Receive,
    patch: Attachment | None = None,
) -> None:
    """Call `receive` with the outputs of each site's writers in a run on tokens."""
    edits, captures = Hooks(), Hooks()
    WriterOutputs(model, graph).hand_over(receive, edits, captures)
    _run(model, tokens, edits, captures, {}, patch)


@torch.no_grad()
def _run(
    model: HookedTransformer,
    tokens: Int[Tensor, "n pos"],
    edits: Hooks,
    captures: Hooks,
    flags: Mapping[str, bool],
    patch: Attachment | None,
) -> None:
    """One pass through the model's layers, with this patch instead of any that is active on it."""
    attachment = Attachment(model, edits=edits.merged(), captures=captures.merged(), flags=flags)
    circuit = nullcontext() if patch is None else patch.attached()
    with suspended(model), circuit, attachment.attached():
        model(tokens.to(model.cfg.device), stop_at_layer=model.cfg.n_layers)
