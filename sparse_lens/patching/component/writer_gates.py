"""Writers of a component graph whose ablated values join the stream for everyone.

Each edit here turns what a writer with gate n adds to the stream from `live` into
n * live + (1 - n) * ablated = live + (1 - n) * (ablated - live).
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformer_lens import HookedTransformer

from sparse_lens.graphs.component import ComponentGraph
from sparse_lens.models.anatomy import anatomy_of
from sparse_lens.patching.component.forward_state import ForwardState
from sparse_lens.patching.component.writers import WriterOutputs
from sparse_lens.patching.gating import gate_values
from sparse_lens.patching.hooks import Hooks


def gate_writers(
    model: HookedTransformer,
    graph: ComponentGraph,
    state: ForwardState,
    outputs: WriterOutputs,
    edits: Hooks,
    captures: Hooks,
) -> None:
    """Add the edits of writers whose gates may be closed."""
    cuts, anatomy = state.cuts, anatomy_of(model)

    def gated_of(columns: slice) -> Tensor:
        return torch.tensor(cuts.gated[columns]).nonzero().flatten()

    inputs = gated_of(slice(0, graph.n_inputs))
    if len(inputs):
        split = graph.split_embeddings
        gate = _GateEmbedding(state, outputs, inputs) if split else _Gate(state, 0)
        edits.add(anatomy.first_stream, gate)
        outputs.embedding.watch(captures)
    for sublayer in graph.sublayers:
        layer, first = sublayer.layer, sublayer.writers.start
        indices = gated_of(sublayer.writers)
        if not len(indices):
            continue
        if sublayer.kind == "mlp":
            edits.add(anatomy.mlp_out(layer), _Gate(state, first))
            continue
        if all(cuts.stored[first + head] for head in indices):
            gate = _GateStoredHeads(state, indices + first)
        else:
            outputs.heads[layer].watch(edits, captures)
            gate = _GateHeads(state, outputs, layer, first, indices.to(model.cfg.device))
        edits.add(anatomy.attn_out(layer), gate)


class _Gate:
    """The gate of a writer whose output passes a hook point of its own."""

    def __init__(self, state: ForwardState, writer: int) -> None:
        self._state, self._writer = state, torch.tensor([writer])

    def __call__(
        self, live: Float[Tensor, "batch pos d_model"]
    ) -> Float[Tensor, "batch pos d_model"]:
        ablated, gates = self._state.ablated(self._writer, live), self._state.cuts.gates
        gate = gates[self._writer.to(gates.device)]
        if gate.requires_grad and ablated is not None:
            ablated = ablated.clone()  # else autograd would keep those of all writers for one
        return gate_values(live, gate, None if ablated is None else ablated[0])


class _GateEmbedding:
    """The gates of token and position embedding, in the stream that has their sum."""

    def __init__(
        self, state: ForwardState, outputs: WriterOutputs, inputs: Int[Tensor, " inputs"]
    ) -> None:
        self._state, self._outputs, self._inputs = state, outputs, inputs

    def __call__(
        self, stream: Float[Tensor, "batch pos d_model"]
    ) -> Float[Tensor, "batch pos d_model"]:
        inputs = self._inputs.to(stream.device)
        live = self._outputs.embedding.each(stream, inputs)  # [inputs, batch, pos, d_model]
        ablated = self._state.ablated(self._inputs, stream)
        closed = 1 - self._state.cuts.gates[inputs].to(stream.dtype)
        change = -live if ablated is None else ablated - live
        return stream + torch.tensordot(closed, change, 1)


class _GateHeads:
    """The gates of a layer's heads, in the sum that they write.

    The heads' live outputs are never made one by one: their weighted sum is a single product.
    """

    def __init__(
        self,
        state: ForwardState,
        outputs: WriterOutputs,
        layer: int,
        first: int,
        heads: Int[Tensor, " heads"],
    ) -> None:
        self._state, self._outputs = state, outputs.heads[layer]
        self._heads, self._writers = heads, heads.cpu() + first

    def __call__(
        self, attn_out: Float[Tensor, "batch pos d_model"]
    ) -> Float[Tensor, "batch pos d_model"]:
        gates = self._state.cuts.gates
        closed = 1 - gates[self._writers.to(gates.device)]  # [heads]
        without = attn_out - self._outputs.weighted(closed, self._heads)
        ablated = self._state.ablated(self._writers, attn_out)
        if ablated is None:
            return without
        return without + torch.tensordot(closed.to(ablated.dtype), ablated, 1)


class _GateStoredHeads:
    """The same, for heads that the store has: what their gates change is a mixture of it."""

    def __init__(self, state: ForwardState, writers: Int[Tensor, " heads"]) -> None:
        self._state = state
        stored, device = torch.tensor(state.cuts.stored), state.cuts.gates.device
        self._in_store = (stored.cumsum(0) - 1)[writers].to(device)
        self._writers = writers.to(device)

    def __call__(
        self, attn_out: Float[Tensor, "batch pos d_model"]
    ) -> Float[Tensor, "batch pos d_model"]:
        store, closed = self._state.store, 1 - self._state.cuts.gates[self._writers]
        share = closed.new_zeros(store.written).index_add(0, self._in_store, closed)
        return store.mix(share[None], attn_out)[0]
