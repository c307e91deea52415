"""What the nodes of a circuit do on the prompts of a task."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from sparse_lens.circuit import Circuit
from sparse_lens.evals.questions import minimality
from sparse_lens.graphs.component import ComponentGraph
from sparse_lens.parts import removable_nodes
from sparse_lens.patching import BATCH_SIZE, BoundAblation, circuit_activations
from sparse_lens.plotting.profiles import LEVELS, Profile, Profiles
from sparse_lens.task import Prompts

SHOWN = 4
"""Prompts whose tokens are shown one by one."""

MOST_CLASSES = 4
"""Prompts are told apart by their answers where there are no more than these."""

EFFECT_PROMPTS = 16
"""Prompts on which nodes are taken out of the circuit."""

MOST_EFFECTS = 200
"""Larger circuits take too long: a run for each node."""

_MOST_TOKENS = 3


@torch.no_grad()
def profiles_of(
    bound: BoundAblation,
    circuit: Circuit,
    prompts: Prompts,
    tokenizer: PreTrainedTokenizerBase | None,
) -> Profiles:
    """Look at all kept nodes of a circuit while it runs.

    The activation of a channel is its value; that of a head or an MLP the norm of what it writes.
    What the circuit loses without a node is measured where it has no more than `MOST_EFFECTS`.

    Args:
        tokenizer: for the texts of tokens; without one they are their numbers.
    """
    prompts = prompts.to(bound.device)
    text = _Texts(tokenizer)
    classes = _classes(prompts)
    names, values = _values(bound, circuit, prompts)
    at_answer = values[:, torch.arange(len(prompts)), prompts.answer_positions.cpu()]
    means = torch.stack([at_answer[:, classes == c].mean(1) for c in range(int(classes.max()) + 1)])
    lengths = (prompts.answer_positions + 1).tolist()
    shown = range(min(SHOWN, len(prompts)))
    largest = torch.stack([values[:, i, : lengths[i]].abs().amax(1) for i in shown]).amax(0)
    levels = (values[:, : len(shown)] / largest.clamp(min=1e-12)[:, None, None] * LEVELS).round()
    top = _top_tokens(values, prompts)
    effects = _effects(bound, circuit, prompts[:EFFECT_PROMPTS])
    nodes = tuple(
        Profile(
            name=name,
            means=tuple(_short(mean) for mean in means[:, i].tolist()),
            top_tokens=tuple(text(token) for token in top[i]),
            largest=_short(float(largest[i])),
            activations=tuple(
                tuple(int(level) for level in levels[i, j, : lengths[j]].tolist()) for j in shown
            ),
            effect=effects.get(name),
        )
        for i, name in enumerate(names)
    )
    component = isinstance(bound.graph, ComponentGraph)
    return Profiles(
        unit="norm of its output" if component else "activation",
        classes=_class_names(prompts, classes, text),
        prompts=tuple(
            tuple(text(token) for token in prompts.clean[j, : lengths[j]].tolist()) for j in shown
        ),
        prompt_classes=tuple(classes[: len(shown)].tolist()),
        nodes=nodes,
    )


class _Texts:
    """Texts of tokens."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase | None) -> None:
        self._tokenizer = tokenizer

    def __call__(self, token: int) -> str:
        return str(token) if self._tokenizer is None else str(self._tokenizer.decode([token]))


def _classes(prompts: Prompts) -> Int[Tensor, " n"]:
    """By prompt the number of its answer; one class where there are too many answers."""
    answers = prompts.answers.reshape(len(prompts), -1).cpu()
    distinct, classes = answers.unique(dim=0, return_inverse=True)
    if len(distinct) > MOST_CLASSES:
        return torch.zeros(len(prompts), dtype=torch.long)
    first = [int((classes == c).nonzero()[0]) for c in range(len(distinct))]
    order = torch.tensor(first).argsort().argsort()  # numbered as they come
    return order[classes]


def _class_names(prompts: Prompts, classes: Int[Tensor, " n"], text: _Texts) -> tuple[str, ...]:
    answers = prompts.answers.reshape(len(prompts), -1).cpu()
    names = []
    for number in range(int(classes.max()) + 1):
        of_class = answers[classes == number]
        alike = bool((of_class == of_class[0]).all())
        names.append(_set_name(of_class[0].tolist(), text) if alike else "all prompts")
    return tuple(names)


def _set_name(answers: list[int], text: _Texts) -> str:
    """Answers that are all right, as far as there is room for them."""
    tokens = list(dict.fromkeys(answers))  # short sets repeat one
    shown = [text(token) for token in tokens[:_MOST_TOKENS]]
    return " | ".join(shown + ["..."] * (len(tokens) > _MOST_TOKENS))


def _values(
    bound: BoundAblation, circuit: Circuit, prompts: Prompts
) -> tuple[list[str], Float[Tensor, "nodes n pos"]]:
    """Kept nodes that carry something, and their activations in float32 on the CPU."""
    graph, component = bound.graph, isinstance(bound.graph, ComponentGraph)
    names = [
        graph.node_name(site, index)
        for site, mask in circuit.node_masks.items()
        if site in graph.valued_sites
        for index in mask.nonzero().flatten().tolist()
    ]
    parts = []
    for batch, ablation in bound.batches(prompts, BATCH_SIZE):
        activations = circuit_activations(ablation, circuit, batch)
        of_sites = []
        for site, mask in circuit.node_masks.items():
            if site in activations and bool(mask.any()):
                activation = activations[site]
                chosen = mask.to(activation.device)
                kept = activation[chosen] if component else activation[..., chosen]
                values = kept.float()
                values = values.norm(dim=-1) if component else values.permute(2, 0, 1)
                of_sites.append(values.cpu())
        parts.append(torch.cat(of_sites) if of_sites else torch.zeros(0, *batch.clean.shape))
    return names, torch.cat(parts, 1)


def _effects(bound: BoundAblation, circuit: Circuit, prompts: Prompts) -> dict[str, float]:
    """By node, the rise of the two-way loss when it alone is taken out."""
    if prompts.distractors is None or int(removable_nodes(circuit).sum()) > MOST_EFFECTS:
        return {}
    result = minimality(bound, circuit, prompts)
    return dict(zip(result.nodes, map(_short, result.means.tolist()), strict=True))


def _top_tokens(values: Float[Tensor, "nodes n pos"], prompts: Prompts) -> list[list[int]]:
    """By node the distinct tokens on which it is farthest from its mean over all tokens."""
    real = torch.arange(values.shape[2]) <= prompts.answer_positions.cpu()[:, None]
    tokens, kept = prompts.clean.cpu()[real], values[:, real]
    distances = (kept - kept.mean(1, keepdim=True)).abs()
    distinct, numbers = tokens.unique(return_inverse=True)
    farthest = distances.new_zeros(len(values), len(distinct))
    farthest.scatter_reduce_(1, numbers.expand(len(values), -1), distances, "amax")
    best = farthest.topk(min(_MOST_TOKENS, len(distinct)), dim=1).indices
    return distinct[best].tolist()


def _short(value: float) -> float:
    return float(f"{value:.4g}")
