"""Whether a circuit holds when what it leaves out is ablated otherwise.

Under one fixed mean of everything absent, a search can settle on what happens to cancel there
(Drori 2026). Values that vary with another prompt, and random parts of the rest ablated by
themselves, do not cancel in the same way: a circuit that is right stands both.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sparse_lens.ablation import InterchangeAblation
from sparse_lens.circuit import Circuit
from sparse_lens.evals.metrics import measure, with_full_logits
from sparse_lens.evals.parts import parts_of, rebuilt, whole_like
from sparse_lens.evals.questions.draws import Draws, generator_of, random_subsets
from sparse_lens.patching import BoundAblation, bind
from sparse_lens.search import BATCH_SIZE
from sparse_lens.task import Prompts


def resampled(
    bound: BoundAblation,
    circuit: Circuit,
    prompts: Prompts,
    *,
    draws: int = 2,
    seed: int = 0,
    full_logits: Float[Tensor, "n vocab"] | None = None,
    batch_size: int = BATCH_SIZE,
) -> Draws:
    """The circuit while absent nodes and edges carry their values on another prompt.

    As in causal scrubbing (Chan et al. 2022), the other prompt is drawn at random, here one for all
    that is absent and in place of whatever `bound` would put there. See `other_prompts` for how.

    Args:
        draws: of another prompt for every prompt.
        seed: of the draws.
        full_logits: the full model's, from `model_logits`, where they are at hand.

    Raises:
        ValueError: for a single prompt.
    """
    generator = generator_of(seed, draws)
    prompts, full_logits = with_full_logits(bound, prompts, full_logits, batch_size)
    found = []
    for _ in range(draws):
        others = other_prompts(prompts, generator).to(prompts.clean.device)
        ablation = bind(bound.model, bound.graph, InterchangeAblation(prompts.clean[others]))
        found.append(
            measure(ablation, circuit, prompts, full_logits=full_logits, batch_size=batch_size)
        )
    return Draws((circuit,) * draws, tuple(found))


def other_prompts(prompts: Prompts, generator: torch.Generator) -> Int[Tensor, " n"]:
    """For each prompt the number of another one, drawn uniformly from those at least as long.

    So no value comes from padding, except for a prompt that is longer than all others, for which
    the longest of these are drawn from.

    Raises:
        ValueError: for a single prompt.
    """
    n = len(prompts)
    if n < 2:
        raise ValueError("a single prompt has no other to take values from; pass two or more.")
    lengths = torch.full((n,), prompts.clean.shape[1])
    if prompts.lengths is not None:
        lengths = prompts.lengths.cpu()
    drawn = []
    for i in range(n):
        is_other = torch.arange(n) != i
        enough = torch.minimum(lengths[i], lengths[is_other].max())
        candidates = (is_other & (lengths >= enough)).nonzero().flatten()
        drawn.append(candidates[torch.randint(len(candidates), (), generator=generator)])
    return torch.stack(drawn)


def partly_ablated(
    bound: BoundAblation,
    circuit: Circuit,
    prompts: Prompts,
    *,
    share: float = 0.5,
    draws: int = 8,
    seed: int = 0,
    full_logits: Float[Tensor, "n vocab"] | None = None,
    batch_size: int = BATCH_SIZE,
) -> Draws:
    """The model with random subsets of what the circuit leaves out ablated.

    A circuit that is right is all that matters, so ablating any part of the rest should change
    little (Drori 2026). Absent nodes of a node circuit, absent edges of an edge circuit; nodes that
    no edge can touch stay. What is ablated carries what `bound` says.

    Args:
        share: probability with which each absent node or edge is ablated.
        draws: of subsets.
        seed: of the draws.
        full_logits: the full model's, from `model_logits`, where they are at hand.

    Raises:
        ValueError: for a share outside (0, 1].
    """
    kept, whole = parts_of(circuit), whole_like(circuit)
    subsets = random_subsets(len(kept), share=share, draws=draws, seed=seed)
    prompts, full_logits = with_full_logits(bound, prompts, full_logits, batch_size)
    circuits = tuple(rebuilt(whole, kept | ~subset) for subset in subsets)
    metrics = (
        measure(bound, one, prompts, full_logits=full_logits, batch_size=batch_size)
        for one in circuits
    )
    return Draws(circuits, tuple(metrics))
