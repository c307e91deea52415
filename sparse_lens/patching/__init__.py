"""Running a model as one of its circuits. Nothing else in the library touches hooks.

**What is computed** is said in :mod:`~sparse_lens.patching.reference`, on one page for each kind of
graph. Read that first. Whatever a circuit leaves out carries an ablated value (`ablations`), and
the rest of the model runs on. The other modules compute the same numbers, or derivatives of them:

- **How one circuit is run fast**: by hooks on the running model, so that its caches and other hooks
  work, and differentiable with respect to soft masks. `run` is the door (:func:`patched`,
  :func:`run_circuit`); `component` is for writers and readers of the residual stream and begins at
  `component.masked_pass`; `channel` is for channels and weights.
- **Many circuits at once** that differ a little, for ACDC: `incremental`
  (:class:`CircuitVariants`).
- **One circuit again and again** as it loses nodes or edges, for greedy removal: `removal`
  (:func:`circuit_runs`).
- **What single nodes and edges do**: `gradients` to first order, for all of them in one backward
  pass (:func:`edge_effects`, :func:`node_effects`); `exact` by a run for each
  (:func:`exact_edge_effects`, :func:`exact_node_effects`).
- **What these stand on**: `hooks` (attached to hook points, and removed), `suspension` (a patch
  inside a patch), `activations` (values of all nodes), `norms` (frozen scales), `gating`,
  `alignment` (which ablated value belongs to which token), `hookless` (modules without hooks),
  `memory`, `fit` (do graph, prompts and model belong together), `acting` (what acts on the output).

Axes, in shapes and in prose:

    batch, n    prompts
    pos         positions; a prompt is answered at its answer position
    tokens      batch * pos, flattened
    d_model     channels of the residual stream
    d_in        channels that a sublayer reads: those of the normed stream, and positions that are
                concatenated to it
    d_head      channels of a head
    writers     what adds to the stream, the columns of a component graph's edges: the embedding (or
                token and position embedding), then of each layer the heads and the MLP
    inputs      the writers before the first layer
    readers     what reads the stream, the rows of these edges: of each layer q of all heads, k of
                all, v of all, and the MLP; then the logits. A reader sees all writers before it
    stored      writers that are cut from some readers, whose outputs are therefore kept
    width       nodes of a site
    dst, src    destinations and sources of a block of edges: its rows and its columns
    copies      of a batch of prompts in one pass, each with something else moved or cut
    variants    circuits in one pass, each on the whole batch

Values: `live` is what a node computes inside the circuit, `ablated` what it carries when it is left
out. A mask m (`kept`; of nodes n, `gates`) is 1 for what is kept, and `cut` is 1 - m. Differences
are always `ablated - live`, so that a reader's stream is `stream + cut @ (ablated - live)`.
"""

from sparse_lens.patching.ablations.always_ablated import AlwaysAblated
from sparse_lens.patching.ablations.binding import BoundAblation, bind
from sparse_lens.patching.ablations.model_values import WithModelValues
from sparse_lens.patching.acting import acting_rows
from sparse_lens.patching.activations import Values, activations, mean_activations
from sparse_lens.patching.exact.effects import exact_edge_effects, exact_node_effects
from sparse_lens.patching.fit import check_prompts
from sparse_lens.patching.gradients.effects import edge_effects, node_effects
from sparse_lens.patching.gradients.points import GradientPoints
from sparse_lens.patching.hooks import counted, frozen
from sparse_lens.patching.incremental.circuit_variants import CircuitVariants
from sparse_lens.patching.norms import has_norms
from sparse_lens.patching.removal.kept import Kept
from sparse_lens.patching.removal.runs import CircuitRuns, circuit_runs
from sparse_lens.patching.run import (
    BATCH_SIZE,
    answer_logits,
    circuit_activations,
    circuit_logits,
    full_logits,
    full_logits_for,
    patched,
    run_circuit,
)
from sparse_lens.patching.suspension import has_hooks_of_others, suspended

__all__ = [
    "BATCH_SIZE",
    "AlwaysAblated",
    "BoundAblation",
    "CircuitRuns",
    "CircuitVariants",
    "GradientPoints",
    "Kept",
    "Values",
    "WithModelValues",
    "acting_rows",
    "activations",
    "answer_logits",
    "bind",
    "check_prompts",
    "circuit_activations",
    "circuit_logits",
    "circuit_runs",
    "counted",
    "edge_effects",
    "exact_edge_effects",
    "exact_node_effects",
    "frozen",
    "full_logits",
    "full_logits_for",
    "has_hooks_of_others",
    "has_norms",
    "mean_activations",
    "node_effects",
    "patched",
    "run_circuit",
    "suspended",
]
