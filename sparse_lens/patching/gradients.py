"""First-order effects of cutting edges and nodes: gradients against (ablated - live)."""

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor
from transformer_lens import HookedTransformer

from sparse_lens.graphs.channel import ChannelGraph
from sparse_lens.graphs.component import LETTERS, ComponentGraph
from sparse_lens.objectives import Objective
from sparse_lens.patching.binding import BoundAblation
from sparse_lens.patching.channel import as_channels, channel_flags
from sparse_lens.patching.component import needed_flags
from sparse_lens.patching.hooks import Attachment, Edit, frozen, merged
from sparse_lens.patching.mixing import Store
from sparse_lens.patching.reading import AttentionReader
from sparse_lens.patching.run import answer_logits
from sparse_lens.patching.suspension import suspended
from sparse_lens.patching.writers import WriterOutputs
from sparse_lens.task import Prompts


def edge_effects(
    bound: BoundAblation, prompts: Prompts, objective: Objective
) -> Float[Tensor, "readers writers"]:
    """Estimated change of the objective, summed over prompts, when each component edge is cut.

    Edge attribution patching (Syed et al. 2310.10348): the sum over positions and channels of
    (ablated - live output of the writer) * gradient at the input of the reader. One run for the
    ablated values, one forward and backward pass for all edges.
    """
    model, graph = bound.model, bound.graph
    assert isinstance(graph, ComponentGraph)
    ablated = bound.writer_values(prompts)
    readers = _ReaderInputs(model, graph)
    store: list[Store] = []

    def receive(live: Tensor, columns: slice) -> None:
        if columns.start == 0:
            store[:] = [Store(graph.n_writers, live[0])]
        store[0].write(live.detach(), None if ablated is None else ablated[columns], columns)

    captures = merged(WriterOutputs(model, graph, receive).captures, readers.captures)
    attachment = Attachment(
        model, edits=readers.edits, captures=captures, flags=needed_flags(model)
    )
    gradients = _backward(model, prompts, objective, attachment, readers.live)
    effects = torch.zeros(graph.n_readers, graph.n_writers, device=store[0].differences.device)
    for rows, gradient in readers.stream_gradients(gradients):
        seen = int(graph.edge_support["edges"][rows.start].count_nonzero())
        effects[rows, :seen] = (gradient @ store[0].differences[:seen].T).float()
    return effects


def node_effects(
    bound: BoundAblation, prompts: Prompts, objective: Objective
) -> Mapping[str, Float[Tensor, " width"]]:
    """Estimated change of the objective, summed over prompts, when each channel is ablated."""
    model, graph = bound.model, bound.graph
    assert isinstance(graph, ChannelGraph)
    ablated = bound.values(prompts)
    live: dict[str, Tensor] = {}
    captures = {site.hook_name: _keep(live, name) for name, site in graph.sites.items()}
    edits = {"blocks.0.hook_resid_pre": _start_graph}
    attachment = Attachment(model, edits=edits, captures=captures, flags=channel_flags(model))
    gradients = _backward(model, prompts, objective, attachment, live)
    effects = {}
    for name, site in graph.sites.items():
        value, _ = as_channels(live[name].detach(), site.width)
        gradient, _ = as_channels(gradients[name], site.width)
        baseline = ablated.get(name)
        difference = -value if baseline is None else baseline.to(value) - value
        effects[name] = (difference * gradient).float().flatten(0, -2).sum(0)
    return effects


def _backward(
    model: HookedTransformer,
    prompts: Prompts,
    objective: Objective,
    attachment: Attachment,
    live: dict[str, Tensor],
) -> dict[str, Tensor]:
    """Gradients of the summed objective with respect to what the attachment captured in `live`."""
    with suspended(model), frozen(model), torch.enable_grad():
        full = None
        if objective.needs_full_logits:
            with torch.no_grad():
                full = answer_logits(model, prompts)
        with attachment.attached():
            loss = objective(answer_logits(model, prompts), prompts, full).sum()
    gradients = torch.autograd.grad(loss, list(live.values()), allow_unused=True)
    return {
        name: torch.zeros_like(value) if gradient is None else gradient
        for (name, value), gradient in zip(live.items(), gradients, strict=True)
    }


class _ReaderInputs:
    """Where the gradients at the readers' inputs come from."""

    def __init__(self, model: HookedTransformer, graph: ComponentGraph) -> None:
        self._model, self._graph = model, graph
        self._readers = [AttentionReader(model, layer) for layer in range(graph.n_layers)]
        self.live: dict[str, Tensor] = {}
        self._streams: dict[str, Tensor] = {}
        self.edits: dict[str, Edit] = {"blocks.0.hook_resid_pre": _start_graph}
        self.captures: dict[str, Edit] = {}
        pre = "_pre" if hasattr(model, "sparse_cfg") else ""
        for layer in range(graph.n_layers):
            at = f"blocks.{layer}"
            self._capture({f"{at}.hook_resid_pre": _keep(self._streams, at)})
            self._capture(self._readers[layer].captures)
            for letter in LETTERS:
                name = f"{at}.{letter}"
                self._capture({f"{at}.attn.hook_{letter}{pre}": _keep(self.live, name)})
            if not graph.attn_only:
                self._capture({f"{at}.hook_mlp_in": _keep(self.live, f"{at}.mlp")})
        final = f"blocks.{graph.n_layers - 1}.hook_resid_post"
        self._capture({final: _keep(self.live, "logits")})

    def _capture(self, captures: Mapping[str, Edit]) -> None:
        self.captures = merged(self.captures, captures)

    def stream_gradients(self, gradients: Mapping[str, Tensor]):
        """Rows of readers with the gradients at the stream that each sees, `[rows, features]`."""
        graph = self._graph
        for layer, reader in enumerate(self._readers):
            at = f"blocks.{layer}"
            attn = self._model.blocks[layer].attn
            at_reads = [
                torch.einsum(
                    "bphd,hid->hbpi",
                    gradients[f"{at}.{letter}"],
                    getattr(attn, f"W_{letter.upper()}").detach(),
                )
                for letter in LETTERS
            ]
            stream = self._streams[at].detach()
            yield (
                graph.head_readers(layer),
                reader.pull_back(stream, torch.cat(at_reads)).flatten(1),
            )
            if not graph.attn_only:
                yield graph.mlp_reader(layer), gradients[f"{at}.mlp"].flatten()[None]
        yield graph.logits_reader, gradients["logits"].flatten()[None]


def _start_graph(stream: Tensor) -> Tensor:
    """Parameters are frozen: gradients start at the first stream."""
    return stream.detach().requires_grad_()


def _keep(values: dict[str, Tensor], name: str) -> Edit:
    def keep(value: Tensor) -> None:
        values[name] = value

    return keep
