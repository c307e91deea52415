"""Robustness to ablating the worst part of what a circuit leaves out, found by gradient ascent."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from sparse_lens.circuit import Circuit
from sparse_lens.conditions import ascend
from sparse_lens.evals.draws import check_count
from sparse_lens.evals.metrics import CircuitMetrics, measure, with_full_logits
from sparse_lens.evals.question import ROBUSTNESS, Answers, Column, Question, Subject
from sparse_lens.objectives import TaskLoss
from sparse_lens.parts import ends_of, part_masks, parts_of, rebuilt, whole_like
from sparse_lens.patching import BATCH_SIZE, BoundAblation, answer_logits, frozen, patched
from sparse_lens.task import Prompts


@dataclass(frozen=True)
class Ascent:
    """Projected gradient ascent on a mask over the absent nodes or edges (Madry et al. 2018).

    The mask holds a number in [0, 1] for each, 1 for its live value. It starts uniformly at random
    and follows the sign of the gradient of the two-way loss; it is clipped to [0, 1] after every
    step and rounded after the last one.
    """

    steps: int = 20
    """Of the ascent, each on all prompts of a mask."""

    step_size: float = 0.1
    """By which every entry of the mask moves in a step, up or down."""

    starts: int = 2
    """Random starts; the rounded mask with the greatest loss counts."""

    def __post_init__(self) -> None:
        check_count("steps", self.steps)
        check_count("starts", self.starts)
        if self.step_size <= 0:
            raise ValueError(f"step_size must be positive, got {self.step_size}.")

    def climb(
        self,
        bound: BoundAblation,
        circuit: Circuit,
        prompts: Prompts,
        *,
        generator: torch.Generator,
        batch_size: int = BATCH_SIZE,
    ) -> Bool[Tensor, " absent"]:
        """Which of the absent parts are live at the end of one ascent."""
        absent = absent_parts(circuit).nonzero()[:, 0].to(bound.device)
        mask = torch.rand(len(absent), generator=generator).to(bound.device)

        def gradient(mask: Tensor) -> Tensor:
            return _loss_gradient(bound, circuit, absent, mask, prompts, batch_size)

        if len(absent):
            mask = ascend(mask, gradient, steps=self.steps, step_size=self.step_size)
        return (mask >= 0.5).cpu()


@dataclass(frozen=True)
class AdversarialSubset(Question):
    """The model with the worst part of what the circuit leaves out ablated, and all else kept.

    See :func:`adversarial_subset`.
    """

    steps: int = Ascent.steps
    """Of gradient ascent."""

    step_size: float = Ascent.step_size
    """By which every entry of the mask moves in a step, up or down."""

    starts: int = Ascent.starts
    """Random starts of the ascent; the worst end counts."""

    draws: int = 8
    """Random subsets of the same size, each ablated alone, to set beside the worst one."""

    prompts_per_mask: int | None = None
    """How many prompts share a subset: None for one subset for all prompts, 1 for one for each."""

    def __post_init__(self) -> None:
        check_count("draws", self.draws)
        if self.prompts_per_mask is not None:
            check_count("prompts_per_mask", self.prompts_per_mask)
        _ = self._ascent  # which checks its own arguments

    @property
    def _ascent(self) -> Ascent:
        return Ascent(steps=self.steps, step_size=self.step_size, starts=self.starts)

    def ask(self, subject: Subject) -> Answers:
        """Sizes of what ran, its metrics, and those of each draw of random subsets."""
        result = adversarial_subset(
            subject.bound,
            subject.circuit,
            subject.prompts,
            ascent=self._ascent,
            draws=self.draws,
            prompts_per_mask=self.prompts_per_mask,
            seed=subject.seed,
            full_logits=subject.full_logits,
        )
        random = [metrics.means() for metrics in result.random]
        return {
            "n_nodes": [circuit.n_nodes for circuit in result.circuits],
            "n_edges": [circuit.n_edges for circuit in result.circuits],
            **result.worst.means(),
            "random_task_loss": [means["task_loss"] for means in random],
            "random_accuracy": [means["accuracy"] for means in random],
        }

    @property
    def columns(self) -> tuple[Column, ...]:
        """The task loss and accuracy under the adversary, and the loss under random subsets."""
        return (
            Column(
                answer="task_loss",
                heading="adversary",
                target_words="with the worst part of the rest ablated",
                title="two-way loss with the worst part of the rest ablated",
                group=ROBUSTNESS,
                meaning=(
                    "The part of what the circuit leaves out whose ablation raises the loss most, "
                    "as gradient ascent finds it, is ablated, and all else is kept; beside it, as "
                    "many nodes or edges at random. Where the circuit is all that matters, neither "
                    "raises the loss; where only the adversary does, what the circuit leaves out "
                    "matters, and cancels when it is ablated as a whole or at random."
                ),
            ),
            Column(
                answer="accuracy",
                heading="right",
                title="share of prompts that are right under the adversary",
                group=ROBUSTNESS,
                form=".0%",
            ),
            Column(
                answer="random_task_loss",
                heading="as many at random",
                title="two-way loss with as many nodes or edges of the rest ablated at random",
                group=ROBUSTNESS,
            ),
        )


@dataclass(frozen=True, eq=False)
class AdversaryResult:
    """The model under the worst subset that was found, beside random subsets of its size."""

    circuits: tuple[Circuit, ...]
    """What ran: all but the ablated subset, one circuit for each group of prompts."""

    worst: CircuitMetrics
    """Of these circuits, each on its prompts."""

    random: tuple[CircuitMetrics, ...]
    """With random subsets of the same sizes ablated, one a draw."""


def adversarial_subset(
    bound: BoundAblation,
    circuit: Circuit,
    prompts: Prompts,
    *,
    ascent: Ascent | None = None,
    draws: int = 8,
    prompts_per_mask: int | None = None,
    seed: int = 0,
    full_logits: Float[Tensor, "n vocab"] | None = None,
    batch_size: int = BATCH_SIZE,
) -> AdversaryResult:
    """Ablate the subset of what a circuit leaves out that raises the two-way loss most.

    A circuit that is right is all that matters, so no ablation of a part of the rest may hurt;
    ablating all of it, or random parts, tests few of these. An adversary searches for the worst
    part by gradients, as in parameter decomposition (Bushnaq et al. 2026, whose masks are of
    weights, with one scheme a batch). It is a lower bound: a worse subset may exist.

    Of a node circuit absent nodes are ablated, but not the ends of a component graph; of an edge
    circuit absent edges, and nodes that no edge can touch stay. The circuit's own parts stay.

    The subset is fitted to the prompts that it is measured on, as a worst case should be.

    Args:
        ascent: its steps, step size and starts; None for the defaults.
        draws: random subsets of the absent parts, of the same size as the adversary's.
        prompts_per_mask: how many prompts share a subset; None for all.
        seed: of the starts and draws.
        full_logits: the full model's, from `model_logits`, where they are at hand.

    Raises:
        ValueError: for no draws, or groups of no prompts.
    """
    check_count("draws", draws)
    if prompts_per_mask is not None:
        check_count("prompts_per_mask", prompts_per_mask)
    prompts, full_logits = with_full_logits(bound, prompts, full_logits, batch_size)
    generator = torch.Generator().manual_seed(seed)
    group_size = prompts_per_mask or len(prompts)
    groups = zip(bound.batches(prompts, group_size), full_logits.split(group_size), strict=True)
    results = [
        _adversary_of_group(
            its_bound,
            circuit,
            group,
            ascent=ascent or Ascent(),
            draws=draws,
            generator=generator,
            full_logits=its_logits,
            batch_size=batch_size,
        )
        for (group, its_bound), its_logits in groups
    ]
    return AdversaryResult(
        circuits=tuple(circuit for result in results for circuit in result.circuits),
        worst=_joined([result.worst for result in results]),
        random=tuple(
            _joined(of_draw) for of_draw in zip(*(r.random for r in results), strict=True)
        ),
    )


def _adversary_of_group(
    bound: BoundAblation,
    circuit: Circuit,
    prompts: Prompts,
    *,
    ascent: Ascent,
    draws: int,
    generator: torch.Generator,
    full_logits: Float[Tensor, "n vocab"],
    batch_size: int,
) -> AdversaryResult:
    """One subset for all of these prompts."""

    def measured(live: Bool[Tensor, " absent"]) -> CircuitMetrics:
        kept = with_live(circuit, live)
        return measure(bound, kept, prompts, full_logits=full_logits, batch_size=batch_size)

    ends = [
        ascent.climb(bound, circuit, prompts, generator=generator, batch_size=batch_size)
        for _ in range(ascent.starts)
    ]
    metrics = [measured(live) for live in ends]
    worst = max(range(len(ends)), key=lambda i: float(metrics[i].task_loss.double().mean()))
    random = tuple(measured(_shuffled(ends[worst], generator)) for _ in range(draws))
    return AdversaryResult((with_live(circuit, ends[worst]),), metrics[worst], random)


def absent_parts(circuit: Circuit) -> Bool[Tensor, " parts"]:
    """The nodes or edges that the circuit leaves out, without the ends of a component graph."""
    absent = ~parts_of(circuit)
    return absent & ~ends_of(circuit.graph) if circuit.is_node_circuit else absent


def with_live(circuit: Circuit, live: Bool[Tensor, " absent"]) -> Circuit:
    """The whole model without those of the circuit's absent parts that are not live."""
    absent = absent_parts(circuit)
    kept = ~absent
    kept[absent] = live
    return rebuilt(whole_like(circuit), kept)


def _loss_gradient(
    bound: BoundAblation,
    circuit: Circuit,
    absent: Tensor,
    mask: Float[Tensor, " absent"],
    prompts: Prompts,
    batch_size: int,
) -> Float[Tensor, " absent"]:
    """The gradient of the summed two-way loss with respect to the mask."""
    model = bound.model
    mask = mask.detach().requires_grad_()
    ones = mask.new_ones(len(parts_of(circuit)))
    for batch, its_ablation in bound.batches(prompts, batch_size):
        with torch.enable_grad(), frozen(model):
            masks = part_masks(circuit, ones.index_copy(0, absent, mask))
            with patched(model, masks, ablation=its_ablation, prompts=batch):
                loss = TaskLoss()(answer_logits(model, batch), batch).sum()
            loss.backward()
    assert mask.grad is not None
    return mask.grad


def _shuffled(live: Bool[Tensor, " absent"], generator: torch.Generator) -> Bool[Tensor, " absent"]:
    """A random subset of the same size."""
    return live[torch.randperm(len(live), generator=generator)]


def _joined(groups: Sequence[CircuitMetrics]) -> CircuitMetrics:
    """The metrics of all groups of prompts, in order."""
    names = [field.name for field in fields(CircuitMetrics)]
    return CircuitMetrics(
        **{name: torch.cat([getattr(metrics, name) for metrics in groups]) for name in names}
    )
