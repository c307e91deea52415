"""What the forward pass of a circuit is: the specification, written to be read.

A circuit keeps some nodes and edges of a graph; everything else carries **ablated values**, which
are given. :mod:`~sparse_lens.patching.reference.component` and
:mod:`~sparse_lens.patching.reference.channel` say in one page each what the model then computes, by
a loop over readers or sites, without any of the code that makes it fast. All other forward passes
of this package (:func:`sparse_lens.patching.run_circuit`,
:class:`sparse_lens.patching.CircuitVariants`, :func:`sparse_lens.patching.circuit_runs`) give the
same numbers, as their tests check.

    corrupted = reference.activations(model, Circuit.full(graph), prompts.corrupted)
    logits = reference.run_circuit(model, circuit, prompts.clean, ablated=corrupted)

is interchange ablation; `bound.values(prompts)` of any bound ablation can take the place of
`corrupted`.
"""

from collections.abc import Mapping

from jaxtyping import Float, Int
from torch import Tensor
from transformer_lens import HookedTransformer

from sparse_lens.circuit import Circuit
from sparse_lens.graphs.component import ComponentGraph
from sparse_lens.masks import Masks
from sparse_lens.patching.reference.channel import run_channel_circuit
from sparse_lens.patching.reference.component import run_component_circuit

__all__ = ["activations", "run_circuit"]


def run_circuit(
    model: HookedTransformer,
    circuit: Circuit | Masks,
    tokens: Int[Tensor, "batch pos"],
    *,
    ablated: Mapping[str, Tensor] | None = None,
) -> Float[Tensor, "batch pos vocab"]:
    """Logits of a circuit, or of soft masks, on tokens.

    Gradients reach the masks, the ablated values and the model's parameters. Hooks that are on the
    model act as ever, so it must not be inside `patched`.

    Args:
        ablated: by site, what absent nodes and edges carry; 0 at sites that are absent. On a
            component graph, values that broadcast to `[width, batch, pos, d_model]` behind the
            first axis; on a channel graph, to `[batch, pos, width]`.
    """
    return _run(model, circuit, tokens, ablated)[0]


def activations(
    model: HookedTransformer,
    circuit: Circuit | Masks,
    tokens: Int[Tensor, "batch pos"],
    *,
    ablated: Mapping[str, Tensor] | None = None,
) -> dict[str, Tensor]:
    """The values of all nodes before their own gates, by site, as the circuit runs.

    `[width, batch, pos, d_model]` on a component graph (`logits` has none), `[batch, pos, width]`
    on a channel graph. See :func:`run_circuit` for the arguments.
    """
    return _run(model, circuit, tokens, ablated)[1]


def _run(
    model: HookedTransformer,
    circuit: Circuit | Masks,
    tokens: Int[Tensor, "batch pos"],
    ablated: Mapping[str, Tensor] | None,
) -> tuple[Float[Tensor, "batch pos vocab"], dict[str, Tensor]]:
    device = model.cfg.device
    masks = circuit
    if not isinstance(masks, Masks):
        masks = Masks.of(masks, device=device, dtype=model.cfg.dtype)
    is_component = isinstance(masks.graph, ComponentGraph)
    run = run_component_circuit if is_component else run_channel_circuit
    return run(model, masks, tokens.to(device), ablated or {})
