"""The masked forward pass on a component graph.

A writer's gate n acts where it writes: n * live + (1 - n) * ablated joins the stream for everyone.
An edge's mask m acts where it is read: the input of a reader is the stream plus, summed over the
writers before it, (1 - m) * (ablated - written). Queries, keys and values are intercepted where
they come out of their projections: the streams of all heads of a layer are made in one matrix
product, normed and projected together, and no flag of TransformerLens makes it split its inputs.
"""

from transformer_lens import HookedTransformer

from sparse_lens.graphs.component import ComponentGraph
from sparse_lens.masks import Masks
from sparse_lens.models.anatomy import anatomy_of
from sparse_lens.patching.component.interception import intercept_readers
from sparse_lens.patching.component.plan import Plan
from sparse_lens.patching.component.run import Run, WriterValues
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
    plan = Plan.of(model, masks)
    run = Run(plan, ablated)
    edits, captures = Hooks(), Hooks()
    outputs = WriterOutputs(model, graph)
    outputs.hand_over(run.write, edits, captures, plan.stored)
    gate_writers(model, graph, run, outputs, edits, captures)
    freeze_scales(scales or {}, edits)
    flags = intercept_readers(model, graph, run, edits, captures, scales)
    captures.add(anatomy_of(model).final_stream, run.finish)
    return Attachment(
        model,
        edits=edits.merged(),
        captures=captures.merged(),
        flags=flags,
        on_start=run.start,
    )
