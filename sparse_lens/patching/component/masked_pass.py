"""The masked forward pass on a component graph, by hooks on the running model.

It computes what `sparse_lens.patching.reference.component` says, in few and large products:

1. **Cuts** (`cuts`): from masks to gates n on writers and masks m on edges. A writer's gate acts
   where it writes: n * live + (1 - n) * ablated joins the stream for everyone (`writer_gates`), so
   that circuits of nodes cut nothing else. What does not act on the logits is not computed.
2. **Writers** (`writers`): as the model runs, the outputs of those that are cut from some readers
   are taken apart by head and put in one store as `ablated - live` (`mixing`).
3. **Readers** (`interception`): the stream that flows is replaced where a reader with a cut edge
   reads, by the stream plus the sum of (1 - m) * (ablated - live) over the writers before it.
   Queries, keys and values are replaced where they come out of their projections: the streams of
   all heads of a layer are made in one product, normed (`reading`) and projected together, and no
   flag of TransformerLens makes it split its inputs.
4. **Backward**, the streams are made again from the store instead of being kept.
"""

from transformer_lens import HookedTransformer

from sparse_lens.graphs.component import ComponentGraph
from sparse_lens.masks import Masks
from sparse_lens.models.anatomy import anatomy_of
from sparse_lens.patching.component.cuts import Cuts
from sparse_lens.patching.component.forward_state import ForwardState, WriterValues
from sparse_lens.patching.component.interception import intercept_readers
from sparse_lens.patching.component.writer_gates import gate_writers
from sparse_lens.patching.component.writers import WriterOutputs
from sparse_lens.patching.hooks import Attachment, Hooks
from sparse_lens.patching.norms import NormScales, freeze_scales


def component_attachment(
    model: HookedTransformer,
    masks: Masks,
    ablated: WriterValues | None,
    scales: NormScales | None = None,
) -> Attachment:
    """Hooks that make the model the circuit.

    Args:
        ablated: of all writers; None for zero.
        scales: what norms divide by, where that is not up to the circuit.
    """
    graph = masks.graph
    assert isinstance(graph, ComponentGraph)
    cuts = Cuts.of(model, masks)
    state = ForwardState(cuts, ablated)
    edits, captures = Hooks(), Hooks()
    outputs = WriterOutputs(model, graph)
    outputs.hand_over(state.write, edits, captures, cuts.stored)
    gate_writers(model, graph, state, outputs, edits, captures)
    freeze_scales(scales or {}, edits)
    flags = intercept_readers(model, graph, state, edits, captures, scales)
    captures.add(anatomy_of(model).final_stream, state.finish)
    return Attachment(
        model,
        edits=edits.merged(),
        captures=captures.merged(),
        flags=flags,
        on_start=state.start,
    )
