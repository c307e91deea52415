"""Edge Pruning: gates on edges, learned under a constraint on how many are open."""

from __future__ import annotations

import io
import math
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformer_lens import HookedTransformer

from sparse_lens.ablation import Ablation
from sparse_lens.atomic import write_atomically
from sparse_lens.baselines.edge_gates import EdgeGates
from sparse_lens.graphs.base import Graph
from sparse_lens.hard_concrete import HardConcrete
from sparse_lens.method import CostMeter, Discovery, Method, metered
from sparse_lens.objectives import KLDivergence, Objective
from sparse_lens.patching import (
    BoundAblation,
    answer_logits,
    bind,
    frozen,
    full_logits,
    patched,
)
from sparse_lens.scores import Scores
from sparse_lens.search import choose_circuit
from sparse_lens.task import Prompts, Task

Row = dict[str, float]

_PROBE = "objective with all gates half open"
"""Tells models, prompts and ablations apart without a hash of any."""

_FULL_LOGITS_ELEMENTS = 2**27
"""Logits of the full model that are kept rather than computed anew in each step."""


@dataclass(frozen=True)
class EdgePruning(Method):
    """Learn a hard-concrete gate for every edge (Bhaskar et al. 2024, 2406.16778).

    All gates are drawn once a step. What is minimised is the objective plus the Lagrangian
    lambda_1 (s - t) + lambda_2 (s - t)^2, with s the sparsity now and t its target, which rises
    from 0; the multipliers, 0 at first, ascend. Afterwards edges are ranked by the log alpha of
    their gates (see `EdgeGates.scores` where writers have gates, too), over the whole graph and
    never within a part of it, and the smallest number that meets the target loss on the
    validation prompts is kept.

    On a component graph there is a gate for every pair of a writer and a reader, on a channel
    graph for every nonzero weight. Gates are float32 whatever the model computes in.

    The defaults are the paper's for GPT-2 small except where its value is named beside them. Those
    belong together and need its 3000 steps: gates that start at log alpha 10 are strictly between
    0 and 1, and so get a gradient from the objective or from an L0 of drawn gates, once in 5000
    draws, and in its program it is weight decay that brings them down. The defaults here
    count gates by their probabilities, which every gate feels in every step, and so take shorter
    strides and fewer of them; the target comes sooner, for the multipliers to settle.
    """

    objective: Objective = field(default_factory=KLDivergence)

    target_loss: float = 0.15
    """Two-way task loss, in nats on the validation prompts, that the chosen circuit meets."""

    target_sparsity: float = 0.97
    """Share of edges that are gone when the gates have been learned."""

    target_warmup_fraction: float = 0.5
    """Share of the steps in which the target rises linearly from 0 to `target_sparsity`; in the
    paper 2500 of 3000."""

    expected_l0: bool = True
    """Count edges by the probabilities that their gates are open; else, as the paper's program
    does, by the gates drawn."""

    writer_gates: bool = False
    """Give every writer a gate as well, which closes all its edges at once."""

    initial: Scores | Method | None = None
    """Scores, or the method to find them, by which gates start in order: edges of low scores lower
    than others. Scores are taken by absolute value, those of a method as it ranks by them; of node
    scores an edge has the lower of its ends'."""

    initial_spread: float = 8.0
    """With `initial`: how much lower the log alpha of the last edge starts than that of the first;
    the others lie between them by rank."""

    initial_mean: float = 10.0
    """Mean of log alpha at the start."""

    initial_std: float = 0.01
    """Standard deviation of log alpha at the start."""

    gate: HardConcrete = field(default_factory=HardConcrete)
    """The distribution of the gates."""

    n_steps: int = 300
    """Optimisation steps; the paper takes 3000."""

    batch_size: int = 32
    """Prompts a step."""

    micro_batch_size: int | None = None
    """Prompts that are in memory at once; the results do not depend on it. None for all."""

    learning_rate: float = 0.2
    """Of log alpha; in the paper 0.8."""

    multiplier_learning_rate: float = 0.8
    """Of the two multipliers."""

    warmup_fraction: float = 200 / 3000
    """Share of the steps in which the learning rates rise; they fall linearly in the rest."""

    weight_decay: float = 0.0
    """Of log alpha and multipliers. The paper's program has 0.01, by accident."""

    checkpoint: str | None = None
    """A file to save the state of the optimisation in, and to go on from where it exists."""

    checkpoint_every: int = 100
    """Steps between two saves."""

    def __post_init__(self) -> None:
        for name in ("n_steps", "batch_size", "micro_batch_size", "checkpoint_every"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}.")
        if not 0 <= self.target_sparsity < 1:
            raise ValueError(f"target_sparsity must lie in [0, 1), got {self.target_sparsity}.")
        for name in ("target_warmup_fraction", "warmup_fraction"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must lie in [0, 1], got {getattr(self, name)}.")
        if self.initial_spread < 0:
            raise ValueError(f"initial_spread must not be negative, got {self.initial_spread}.")

    def discover(
        self,
        model: HookedTransformer,
        graph: Graph,
        task: Task,
        *,
        ablation: Ablation | BoundAblation,
        seed: int = 0,
    ) -> Discovery:
        """Learn gates on the train prompts; choose the smallest circuit on the validation prompts.

        Without a validation split there are scores, and circuits of any size, but none is chosen.
        The history has a row a step: the objective, the sparsity, its target and the multipliers.

        Raises:
            ValueError: when the checkpoint belongs to another run.
            FileNotFoundError: when its folder does not exist.
        """
        with metered(model) as meter, frozen(model):
            bound = bind(model, graph, ablation)
            gates = EdgeGates(graph, writers=self.writer_gates, device=model.cfg.device)
            order = self._order(gates, bound, task, seed, meter)
            training = _Training(self, bound, gates, task.train, order, seed)
            training.run(meter)
            scores = gates.scores(training.log_alpha, self.gate.offset)
            chosen = None
            if task.validation is not None:
                chosen = choose_circuit(
                    bound, scores, task, target_loss=self.target_loss, absolute=False
                )
            cost = meter.cost()
        return Discovery(
            method=self,
            task=task.name,
            scores=scores,
            chosen=chosen,
            cost=cost,
            seed=seed,
            absolute=False,
            history=tuple(training.history),
        )

    def _order(
        self, gates: EdgeGates, bound: BoundAblation, task: Task, seed: int, meter: CostMeter
    ) -> Float[Tensor, " edges"] | None:
        """Ranks of the edges by the initial scores: 0 for the last, 1 for the first."""
        if self.initial is None:
            return None
        scores, absolute = self.initial, True
        if isinstance(scores, Method):
            found = scores.discover(bound.model, bound.graph, task, ablation=bound, seed=seed)
            meter.backward_passes += found.cost.backward_passes
            scores, absolute = found.scores, found.absolute
        distinct, rank = gates.of_scores(scores, absolute=absolute).unique(return_inverse=True)
        return rank.float() / max(1, len(distinct) - 1)


class _Training:
    """The state of the optimisation, which a checkpoint holds, and its steps."""

    def __init__(
        self,
        method: EdgePruning,
        bound: BoundAblation,
        gates: EdgeGates,
        prompts: Prompts,
        order: Tensor | None,
        seed: int,
    ) -> None:
        device = bound.model.cfg.device or "cpu"
        self._method, self._bound, self._gates = method, bound, gates
        self._prompts, self._seed = prompts.to(device), seed
        self._generator = torch.Generator().manual_seed(seed)
        noise = torch.randn(gates.n_gates, generator=self._generator)
        log_alpha = method.initial_mean + method.initial_std * noise
        if order is not None:
            log_alpha[: gates.n_edges] -= method.initial_spread * (1 - order)
        self.log_alpha = log_alpha.to(device).requires_grad_()
        self._multipliers = torch.zeros(2, device=device, requires_grad=True)
        self._optimizer = torch.optim.AdamW(
            [{"params": [self.log_alpha]}, {"params": [self._multipliers], "maximize": True}],
            weight_decay=method.weight_decay,
        )
        self._queue = torch.zeros(0, dtype=torch.long)
        self._full = self._full_logits()
        self.history: list[Row] = []

    def run(self, meter: CostMeter) -> None:
        """All steps that are left to do."""
        method = self._method
        path = None if method.checkpoint is None else Path(method.checkpoint)
        if path is not None and not path.parent.is_dir():
            raise FileNotFoundError(f"there is no folder {path.parent} for the checkpoint.")
        identity = {} if path is None else self._identity()
        if path is not None and path.exists():
            self._load(path, identity)
        while len(self.history) < method.n_steps:
            self.history.append(self._step(meter))
            done = len(self.history)
            due = done % method.checkpoint_every == 0 or done == method.n_steps
            if path is not None and due:
                self._save(path, identity)

    def _step(self, meter: CostMeter) -> Row:
        method, gates = self._method, self._gates
        step = len(self.history)
        rate = _rate(step, method.n_steps, method.warmup_fraction)
        of_gates, of_multipliers = self._optimizer.param_groups
        of_gates["lr"] = method.learning_rate * rate
        of_multipliers["lr"] = method.multiplier_learning_rate * rate
        self._optimizer.zero_grad()

        drawn = method.gate.sample(self.log_alpha, self._generator)
        leaf = drawn.detach().requires_grad_()
        objective = self._objective(leaf, self._next_rows(), meter)
        counted = method.gate.probability_open(self.log_alpha) if method.expected_l0 else drawn
        sparsity = 1 - gates.kept(counted) / gates.n_edges
        target = method.target_sparsity * min(
            1.0, step / max(1.0, method.target_warmup_fraction * method.n_steps)
        )
        excess = sparsity - target
        penalty = self._multipliers @ torch.stack([excess, excess.square()])
        torch.autograd.backward([drawn, penalty], [leaf.grad, None])
        row = {
            "step": float(step),
            "objective": objective,
            "sparsity": sparsity.item(),
            "target": target,
            "lambda_1": self._multipliers[0].item(),
            "lambda_2": self._multipliers[1].item(),
        }
        self._optimizer.step()
        return row

    def _objective(
        self, gates: Tensor, rows: Int[Tensor, " rows"], meter: CostMeter | None = None
    ) -> float:
        """The mean over some prompts; with a meter its gradient is added to that of the gates."""
        method, model = self._method, self._bound.model
        total = 0.0
        for some in rows.split(method.micro_batch_size or len(rows)):
            part, full = self._prompts[some], None
            if method.objective.needs_full_logits:
                full = full_logits(model, part) if self._full is None else self._full[some]
            with patched(model, self._gates.masks(gates), ablation=self._bound, prompts=part):
                loss = method.objective(answer_logits(model, part), part, full).sum()
            if meter is not None:
                (loss / len(rows)).backward()
                meter.backward_passes += 1
            total += loss.item()
        return total / len(rows)

    def _full_logits(self) -> Float[Tensor, "n vocab"] | None:
        """Of all prompts, once, where these are needed and not too many."""
        method, model = self._method, self._bound.model
        elements = len(self._prompts) * model.cfg.d_vocab_out
        if not method.objective.needs_full_logits or elements > _FULL_LOGITS_ELEMENTS:
            return None
        size = method.micro_batch_size or method.batch_size
        return torch.cat([full_logits(model, part) for part in self._prompts.batches(size)])

    def _next_rows(self) -> Int[Tensor, " rows"]:
        """Of the prompts, all in a new order each epoch."""
        n = len(self._prompts)
        size = min(self._method.batch_size, n)
        if len(self._queue) < size:
            self._queue = torch.randperm(n, generator=self._generator)
        rows, self._queue = self._queue[:size], self._queue[size:]
        return rows.to(self.log_alpha.device)

    # Checkpoints.

    def _save(self, path: Path, identity: dict[str, Any]) -> None:
        """Write all that the other steps depend on."""
        state = {
            "identity": identity,
            "log_alpha": self.log_alpha.detach(),
            "multipliers": self._multipliers.detach(),
            "optimizer": self._optimizer.state_dict(),
            "generator": self._generator.get_state(),
            "queue": self._queue,
            "history": self.history,
        }
        content = io.BytesIO()
        torch.save(state, content)
        write_atomically(path, content.getvalue())

    def _load(self, path: Path, identity: dict[str, Any]) -> None:
        state = torch.load(path, map_location="cpu", weights_only=True)
        for name, here in identity.items():
            there = state["identity"].get(name)
            same = here == there
            if name == _PROBE and there is not None:
                same = math.isclose(here, there, rel_tol=0.02, abs_tol=1e-4)
            if not same:
                raise ValueError(
                    f"the checkpoint {path} is of another run: its {name} is {there}, here it is "
                    f"{here}. Pass another path, or remove the file to start anew."
                )
        with torch.no_grad():
            self.log_alpha.copy_(state["log_alpha"])
            self._multipliers.copy_(state["multipliers"])
        self._optimizer.load_state_dict(state["optimizer"])
        self._generator.set_state(state["generator"])
        self._queue, self.history = state["queue"], state["history"]

    @torch.no_grad()
    def _identity(self) -> dict[str, Any]:
        """What must be the same for a checkpoint to be of this run."""
        free = ("checkpoint", "checkpoint_every", "micro_batch_size", "initial", "target_loss")
        settings = {f.name: repr(getattr(self._method, f.name)) for f in fields(self._method)}
        half = torch.full_like(self.log_alpha, 0.5)
        first = torch.arange(min(self._method.batch_size, len(self._prompts)))
        return {
            **{name: value for name, value in settings.items() if name not in free},
            "seed": self._seed,
            "graph": self._bound.graph.fingerprint,
            _PROBE: self._objective(half, first.to(half.device)),
        }


def _rate(step: int, n_steps: int, warmup_fraction: float) -> float:
    """The learning rate's share of its peak: a linear rise, then a linear fall to 0."""
    warmup = max(1, round(warmup_fraction * n_steps))
    if step < warmup:
        return (step + 1) / warmup
    return (n_steps - step) / max(1, n_steps - warmup)
