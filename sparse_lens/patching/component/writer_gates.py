"""Writers of a component graph whose ablated values join the stream for everyone."""

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformer_lens import HookedTransformer

from sparse_lens.graphs.component import ComponentGraph
from sparse_lens.models.anatomy import anatomy_of
from sparse_lens.patching.component.run import Run
from sparse_lens.patching.component.writers import WriterOutputs
from sparse_lens.patching.gating import gate_values
from sparse_lens.patching.hooks import Hooks


def gate_writers(
    model: HookedTransformer,
    graph: ComponentGraph,
    run: Run,
    outputs: WriterOutputs,
    edits: Hooks,
    captures: Hooks,
) -> None:
    """Add the edits of writers whose gates may be closed."""
    gated, device, anatomy = run.plan.gated, model.cfg.device, anatomy_of(model)

    def chosen(columns: slice) -> Tensor:
        return torch.tensor(gated[columns]).nonzero().flatten()

    inputs = chosen(slice(0, graph.n_inputs))
    if len(inputs):
        gate = _GateEmbedding(run, outputs, inputs) if graph.split_embeddings else _Gate(run, 0)
        edits.add(anatomy.first_stream, gate)
        outputs.embedding.watch(captures)
    for sublayer in graph.sublayers:
        layer, columns = sublayer.layer, sublayer.writers
        heads = chosen(columns)
        if not len(heads):
            continue
        if sublayer.kind == "mlp":
            edits.add(anatomy.mlp_out(layer), _Gate(run, columns.start))
            continue
        if all(run.plan.stored[columns.start + head] for head in heads):
            gate = _GateStoredHeads(run, heads + columns.start)
        else:
            outputs.heads[layer].watch(edits, captures)
            gate = _GateHeads(run, outputs, layer, columns.start, heads.to(device))
        edits.add(anatomy.attn_out(layer), gate)


class _Gate:
    """The gate of a writer whose output passes a hook point of its own."""

    def __init__(self, run: Run, writer: int) -> None:
        self._run, self._writer = run, torch.tensor([writer])

    def __call__(self, found: Float[Tensor, "batch pos d_model"]) -> Tensor:
        ablated = self._run.ablated(self._writer, found)
        gate = self._run.plan.gates[self._writer.to(self._run.plan.gates.device)]
        if gate.requires_grad and ablated is not None:
            ablated = ablated.clone()  # else autograd would keep those of all writers for one
        return gate_values(found, gate, None if ablated is None else ablated[0])


class _GateEmbedding:
    """The gates of token and position embedding, in the stream that has their sum."""

    def __init__(self, run: Run, outputs: WriterOutputs, chosen: Int[Tensor, " chosen"]) -> None:
        self._run, self._outputs, self._chosen = run, outputs, chosen

    def __call__(self, stream: Float[Tensor, "batch pos d_model"]) -> Tensor:
        chosen = self._chosen.to(stream.device)
        live = self._outputs.embedding.each(stream, chosen)
        ablated = self._run.ablated(self._chosen, stream)
        closed = 1 - self._run.plan.gates[chosen].to(stream.dtype)
        change = -live if ablated is None else ablated - live
        return stream + torch.tensordot(closed, change, 1)


class _GateHeads:
    """The gates of a layer's heads, in the sum that they write."""

    def __init__(
        self,
        run: Run,
        outputs: WriterOutputs,
        layer: int,
        first: int,
        chosen: Int[Tensor, " chosen"],
    ) -> None:
        self._run, self._heads = run, outputs.heads[layer]
        self._chosen, self._writers = chosen, chosen.cpu() + first

    def __call__(self, attn_out: Float[Tensor, "batch pos d_model"]) -> Tensor:
        gates = self._run.plan.gates
        closed = 1 - gates[self._writers.to(gates.device)]
        changed = attn_out - self._heads.weighted(closed, self._chosen)
        ablated = self._run.ablated(self._writers, attn_out)
        if ablated is None:
            return changed
        return changed + torch.tensordot(closed.to(ablated.dtype), ablated, 1)


class _GateStoredHeads:
    """The same, for heads that the store has: what their gates change is a mixture of it."""

    def __init__(self, run: Run, writers: Int[Tensor, " chosen"]) -> None:
        self._run = run
        stored = torch.tensor(run.plan.stored)
        device = run.plan.gates.device
        self._places = (stored.cumsum(0) - 1)[writers].to(device)
        self._writers = writers.to(device)

    def __call__(self, attn_out: Float[Tensor, "batch pos d_model"]) -> Tensor:
        store, closed = self._run.store, 1 - self._run.plan.gates[self._writers]
        share = closed.new_zeros(store.written).index_add(0, self._places, closed)
        return store.mix(share[None], attn_out)[0]
