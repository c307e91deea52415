"""Conditions under which a circuit can be asked to meet its target, beside the ablation itself.

Under one fixed mean of everything absent a search can settle on what happens to cancel there (Drori
2026). Each condition here changes what the rest of the model does while the circuit runs: other
values, other norm scales, or parts of the rest left alive, at random or by an adversary. A circuit
that is all that matters stands all of them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from types import MappingProxyType
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from sparse_lens.ablation import Ablation, ResampleAblation
from sparse_lens.circuit import Circuit
from sparse_lens.masks import Masks
from sparse_lens.parts import (
    by_its_edges,
    masks_by_edges,
    part_masks,
    parts_of,
    rebuilt,
    whole_like,
    with_live,
)
from sparse_lens.patching import BoundAblation, answer_logits, frozen, patched
from sparse_lens.task import Prompts

LossOf = Callable[[Float[Tensor, "n vocab"]], Float[Tensor, " n"]]
"""A loss of logits on prompts that are known."""


@dataclass(frozen=True, eq=False)
class Trial:
    """One way in which a circuit, or soft masks, run."""

    bound: BoundAblation
    """For the prompts in question."""

    live: Float[Tensor, " parts"] | None = None
    """Nodes, or edges, that stay alive although the circuit leaves them out: 1, and 0 for the
    others. None for none of them."""

    freeze_norm_scales: bool = False
    """Norms divide by what they divide by in the full model."""

    own_edges_only: bool = False
    """Of a node circuit only the edges between its nodes are alive."""

    def circuit(self, circuit: Circuit) -> Circuit:
        """A circuit with what is alive beside it."""
        if self.own_edges_only and circuit.is_node_circuit:
            circuit = by_its_edges(circuit)
        if self.live is None:
            return circuit
        return rebuilt(whole_like(circuit), parts_of(circuit) | (self.live.cpu() > 0))

    def masks(self, masks: Masks) -> Masks:
        """Soft masks with what is alive beside them."""
        if self.own_edges_only and not masks.edges:
            masks = masks_by_edges(masks)
        return masks if self.live is None else with_live(masks, self.live)


class Condition(ABC):
    """What the rest of the model does while a circuit runs. A frozen dataclass of numbers."""

    words: ClassVar[str]
    """Where a report says "under ..."."""

    def __str__(self) -> str:
        """Its words, and the settings that are not the default ones."""
        changed = ", ".join(
            f"{f.name}={getattr(self, f.name)}"
            for f in fields(self)  # type: ignore[arg-type]
            if getattr(self, f.name) != getattr(type(self)(), f.name)
        )
        return f"{self.words} ({changed})" if changed else self.words

    @abstractmethod
    def trials(
        self,
        bound: BoundAblation,
        masks: Masks,
        prompts: Prompts,
        loss: LossOf,
        *,
        generator: torch.Generator,
    ) -> tuple[Trial, ...]:
        """The ways in which masks run under this condition on some prompts.

        Args:
            bound: the ablation that the circuit is looked for with, for these prompts.
            masks: the circuit's; a condition may depend on them, gradients do not reach them here.
            loss: of logits on these prompts, for a condition that works against it.
            generator: of all draws, on the CPU.
        """


@dataclass(frozen=True)
class OtherValues(Condition):
    """What is absent carries what another ablation says.

    By default the values of another prompt, drawn at random for each trial.
    """

    words = "other prompts' values"

    ablation: Ablation = field(default_factory=ResampleAblation)

    draws: int = 1
    """Trials; more than one make sense for an ablation with a seed."""

    def __post_init__(self) -> None:
        if self.draws < 1:
            raise ValueError(f"draws must be 1 or more, got {self.draws}.")

    def trials(
        self,
        bound: BoundAblation,
        masks: Masks,
        prompts: Prompts,
        loss: LossOf,
        *,
        generator: torch.Generator,
    ) -> tuple[Trial, ...]:
        """One a draw, with a seed of its own where the ablation has one."""
        ablations = [self._drawn(generator) for _ in range(self.draws)]
        return tuple(
            Trial(bound.with_ablation(ablation).for_prompts(prompts)) for ablation in ablations
        )

    def _drawn(self, generator: torch.Generator) -> Ablation:
        if "seed" not in {f.name for f in fields(self.ablation)}:
            return self.ablation
        seed = int(torch.randint(2**31, (), generator=generator))
        return replace(self.ablation, seed=seed)  # pyright: ignore[reportCallIssue]


@dataclass(frozen=True)
class FrozenNormScales(Condition):
    """Norms divide by what they divide by in the full model on the same prompts."""

    words = "frozen norm scales"

    def trials(
        self,
        bound: BoundAblation,
        masks: Masks,
        prompts: Prompts,
        loss: LossOf,
        *,
        generator: torch.Generator,
    ) -> tuple[Trial, ...]:
        """One."""
        return (Trial(bound, freeze_norm_scales=True),)


@dataclass(frozen=True)
class OwnEdges(Condition):
    """Of a node circuit only the edges between its nodes are alive.

    What a pruned node would be is otherwise still computed from live values, and competes with kept
    nodes where an AbsTopK follows: see :func:`sparse_lens.parts.by_its_edges`. Edge circuits are
    so already.
    """

    words = "their own edges alone"

    def trials(
        self,
        bound: BoundAblation,
        masks: Masks,
        prompts: Prompts,
        loss: LossOf,
        *,
        generator: torch.Generator,
    ) -> tuple[Trial, ...]:
        """One, of node masks."""
        return () if masks.edges else (Trial(bound, own_edges_only=True),)


@dataclass(frozen=True)
class PartlyLive(Condition):
    """A random subset of the nodes, or edges, that the circuit leaves out is alive."""

    words = "random parts of the rest alive"

    share: float = 0.5
    """Probability with which each of them is."""

    draws: int = 2

    def __post_init__(self) -> None:
        if not 0 < self.share < 1:
            raise ValueError(f"share must lie between 0 and 1, got {self.share}.")
        if self.draws < 1:
            raise ValueError(f"draws must be 1 or more, got {self.draws}.")

    def trials(
        self,
        bound: BoundAblation,
        masks: Masks,
        prompts: Prompts,
        loss: LossOf,
        *,
        generator: torch.Generator,
    ) -> tuple[Trial, ...]:
        """One a draw."""
        drawn = (torch.rand(n_parts(masks), generator=generator) for _ in range(self.draws))
        return tuple(Trial(bound, (u < self.share).float().to(bound.device)) for u in drawn)


@dataclass(frozen=True)
class Adversary(Condition):
    """The subset of the rest is alive under which the circuit loses most.

    Projected gradient ascent (Madry et al. 2018, 1706.06083) on a number in [0, 1] for each node,
    or edge: it starts at random, follows the sign of the gradient of the loss, is clipped to [0, 1]
    after every step and rounded after the last one. A lower bound of the worst: another subset may
    be worse.
    """

    words = "an adversary"

    steps: int = 10
    """Of the ascent, each one pass forward and one backward on all prompts."""

    step_size: float = 0.2
    """By which every number moves in a step."""

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"steps must be 1 or more, got {self.steps}.")
        if self.step_size <= 0:
            raise ValueError(f"step_size must be positive, got {self.step_size}.")

    def trials(
        self,
        bound: BoundAblation,
        masks: Masks,
        prompts: Prompts,
        loss: LossOf,
        *,
        generator: torch.Generator,
    ) -> tuple[Trial, ...]:
        """One, which raises the loss of these masks."""
        masks = _detached(masks)

        def gradient(live: Tensor) -> Tensor:
            live.requires_grad_()
            with patched(bound.model, with_live(masks, live), ablation=bound, prompts=prompts):
                total = loss(answer_logits(bound.model, prompts)).sum()
            return torch.autograd.grad(total, live)[0]

        start = torch.rand(n_parts(masks), generator=generator).to(bound.device)
        with torch.enable_grad(), frozen(bound.model):
            live = ascend(start, gradient, steps=self.steps, step_size=self.step_size)
        return (Trial(bound, (live >= 0.5).float()),)


CONDITIONS: Mapping[str, type[Condition]] = MappingProxyType(
    {
        "resample": OtherValues,
        "frozen-norms": FrozenNormScales,
        "own-edges": OwnEdges,
        "subsets": PartlyLive,
        "adversary": Adversary,
    }
)
"""By their names on the command line."""


def mean_loss(
    conditions: Sequence[Condition],
    bound: BoundAblation,
    masks: Masks,
    prompts: Prompts,
    loss: LossOf,
    *,
    generator: torch.Generator,
    freeze_norm_scales: bool = False,
) -> Float[Tensor, ""]:
    """The mean loss over prompts, and over the ablation itself and each trial of the conditions.

    What a learner of masks descends. Gradients reach the masks in each trial.

    Args:
        bound: for these prompts.
        freeze_norm_scales: in all trials.
    """
    trials = [Trial(bound)]
    for condition in conditions:
        trials += condition.trials(bound, masks, prompts, loss, generator=generator)
    means = []
    for trial in trials:
        with patched(
            bound.model,
            trial.masks(masks),
            ablation=trial.bound,
            prompts=prompts,
            freeze_norm_scales=freeze_norm_scales or trial.freeze_norm_scales,
        ):
            means.append(loss(answer_logits(bound.model, prompts)).mean())
    return torch.stack(means).mean()


def ascend(
    start: Float[Tensor, " n"],
    gradient: Callable[[Float[Tensor, " n"]], Float[Tensor, " n"]],
    *,
    steps: int,
    step_size: float,
) -> Float[Tensor, " n"]:
    """Projected gradient ascent in [0, 1]: steps in the gradient's sign, clipped after each."""
    current = start
    for _ in range(steps):
        current = (current + step_size * gradient(current).sign()).detach().clamp(0, 1)
    return current


def n_parts(masks: Masks) -> int:
    """Length of `Trial.live`: edges of the graph where the masks have any, else nodes."""
    return masks.graph.n_edges if masks.edges else masks.graph.n_nodes


def masks_of(circuit: Circuit, *, device: torch.device) -> Masks:
    """A circuit's masks over the parts that it is given by."""
    return part_masks(circuit, parts_of(circuit).float().to(device))


def _detached(masks: Masks) -> Masks:
    return Masks(
        masks.graph,
        {site: mask.detach() for site, mask in masks.nodes.items()},
        {block: mask.detach() for block, mask in masks.edges.items()},
    )
