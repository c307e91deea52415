"""The values of all nodes in runs of the whole model, or of a circuit, and their means."""

from collections.abc import Iterator, Mapping
from contextlib import nullcontext

import torch
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
    """The values of all nodes in a run on some tokens.

    Args:
        patch: makes the model a circuit; None for the whole model.
    """
    if isinstance(graph, ComponentGraph):
        outputs = writer_activations(model, graph, tokens, patch=patch)
        return {name: outputs[where] for name, where in _writer_sites(graph)}
    values: dict[str, Tensor] = {}
    edits, captures = Hooks(), Hooks()
    for name, site in graph.sites.items():

        def keep(found: Tensor, name: str = name) -> None:
            channels = site_channels(found, graph.sites[name])
            # Where each head reads a copy of its own, one stands for all.
            values[name] = (channels[:, :, 0] if channels.ndim == 4 else channels).detach().clone()

        captures.add(site.hook_name, keep)
    _run(model, tokens, edits, captures, channel_flags(captures), patch)
    return values


def writer_activations(
    model: HookedTransformer,
    graph: ComponentGraph,
    tokens: Int[Tensor, "n pos"],
    *,
    patch: Attachment | None = None,
) -> Float[Tensor, "writers n pos d_model"]:
    """The outputs of all writers in a run on some tokens; see `activations`."""
    outputs: list[Tensor] = []

    def receive(live: Tensor, where: slice) -> None:
        if not outputs:
            outputs.append(live.new_empty(graph.n_writers, *live.shape[1:]))
        outputs[0][where] = live

    _each_writer(model, graph, tokens, receive, patch)
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
    """Means of all nodes' values over some tokens, in float32 or better.

    Pooled over positions, or one for each position.

    Args:
        lengths: tokens of each row that are not padding on its right; None when none is padded.

    Raises:
        ValueError: for no tokens, or a position at which all is padding.
    """
    n, width = tokens.shape
    real = torch.ones(n, width, dtype=torch.bool)
    if lengths is not None:
        if lengths.shape != (n,):
            raise ValueError(f"{len(lengths)} lengths for {n} rows of tokens; give one for each.")
        real = torch.arange(width) < lengths.cpu()[:, None]
    counts = real.sum(0) if per_position else real.sum()
    if not bool((counts > 0).all()) or not counts.numel():
        raise ValueError(
            f"cannot take means over no tokens: tokens of shape {(n, width)}, of which "
            f"{counts.tolist()} a position (or in all) are not padding."
        )
    sums: dict[str, Tensor] = {}
    for rows in torch.arange(n).split(batch_size):
        for name, total in _sums(model, graph, tokens[rows.to(tokens.device)], real[rows]):
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
    real: Bool[Tensor, "n pos"],
) -> Iterator[tuple[str, Float[Tensor, "*width pos d"]]]:
    """By site, sums over the rows of tokens, without padding."""
    if isinstance(graph, ComponentGraph):
        totals: list[Tensor] = []

        def receive(live: Tensor, where: slice) -> None:
            totals.append(_sum_of_real(live, real))

        _each_writer(model, graph, tokens, receive)
        outputs = torch.cat(totals)
        yield from ((name, outputs[where]) for name, where in _writer_sites(graph))
        return
    for name, value in activations(model, graph, tokens).items():
        yield name, _sum_of_real(value, real)


def _sum_of_real(
    values: Float[Tensor, "*writers n pos d"], real: Bool[Tensor, "n pos"]
) -> Float[Tensor, "*writers pos d"]:
    dtype = torch.promote_types(values.dtype, torch.float32)
    weight = real.to(device=values.device, dtype=dtype)
    return torch.einsum("...bpd,bp->...pd", values.to(dtype), weight)


def _writer_sites(graph: ComponentGraph) -> Iterator[tuple[str, slice]]:
    for name, where in graph.node_slices.items():
        if name != "logits":
            yield name, where


def _each_writer(
    model: HookedTransformer,
    graph: ComponentGraph,
    tokens: Int[Tensor, "n pos"],
    receive: Receive,
    patch: Attachment | None = None,
) -> None:
    """Hand over the outputs of all writers, one site after the other, in a run on some tokens."""
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
    """One pass through the model's blocks with this patch, instead of any that is active on it."""
    attachment = Attachment(model, edits=edits.merged(), captures=captures.merged(), flags=flags)
    circuit = nullcontext() if patch is None else patch.attached()
    with suspended(model), circuit, attachment.attached():
        model(tokens.to(model.cfg.device), stop_at_layer=model.cfg.n_layers)
