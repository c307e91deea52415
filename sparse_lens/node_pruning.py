"""Node-level learned-mask pruning, the method of the weight-sparse transformers paper."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from sparse_lens.calibration import fit_calibration
from sparse_lens.circuit import Circuit
from sparse_lens.conditions import mean_loss
from sparse_lens.cost import CostMeter
from sparse_lens.gate_warnings import gate_warnings
from sparse_lens.graphs.base import Graph
from sparse_lens.learning import PromptOrder, share_of_peak
from sparse_lens.masks import Masks
from sparse_lens.method import Method
from sparse_lens.node_price import NodePrice
from sparse_lens.objectives import Objective, TaskLoss
from sparse_lens.patching import (
    BoundAblation,
    frozen,
    full_logits_for,
)
from sparse_lens.ranking_method import Ranking, RankingMethod, ranking_of
from sparse_lens.refinement import refined
from sparse_lens.scores import Scores
from sparse_lens.search import Calibrate, ChosenCircuit
from sparse_lens.target import mean_of_worst
from sparse_lens.task import Prompts, Task

Row = dict[str, float]


@dataclass(frozen=True)
class NodePruning(RankingMethod):
    """Learn one gate per node by straight-through gradients (Gao et al. 2025, 2511.13653, app. A).

    Each node has a parameter tau and the gate H(tau >= 0); backward the gate has the derivative of
    sigmoid(tau / temperature). A closed gate puts the ablated value in place of the activation.
    The loss is the objective plus `k_coef` times the number of open gates. Afterwards nodes are
    ranked by tau, and the smallest number that meets the target on the validation prompts is kept.
    Nodes that this circuit can do without are then removed one by one: see
    :func:`sparse_lens.refinement.refined`. Under the conditions of the target, if it has any, gates
    are learned, too: the objective is the mean over them, each drawn anew every step.

    The defaults are the centres of the paper's hyperparameter search, where it gives them, except
    for `k_coef`, `batch_size` and `learning_rate`: with these, gates of small models hardly change
    after 300 steps, and circuits are no smaller with larger batches or more steps.
    """

    objective: Objective = TaskLoss()
    """One that has no slope at the full model, where all gates start open, says nothing in the
    first steps of which gates to close: KLDivergence needs a `k_coef` or a warm start to match."""

    k_coef: float | tuple[float, ...] = (1e-3, 3e-3, 1e-2)
    """Weight of the number of kept nodes in the loss. Which one is right depends on the model, the
    task and the ablation, and no other setting matters as much; of several, each gets a run, and
    the run with the smallest circuit is kept. The paper's centre is 1e-4."""

    hold_loss: float | None = None
    """The weight adapts, from `k_coef` on, so that the objective on the train prompts stays at this
    (0.1 for a target of 0.15): see :class:`sparse_lens.node_price.NodePrice`. None for a weight
    that stays."""

    init_noise_scale: float = 1e-2
    """Standard deviation of tau at the start."""

    init_noise_bias: float = 1e-1
    """Mean of tau at the start."""

    temperature: float = 1.0
    """Of the sigmoid whose derivative the gates have."""

    n_steps: int = 300
    """Optimisation steps. The paper does not say how many it takes."""

    batch_size: int = 16
    """Prompts a step. The paper takes 128 (64 pairs, as clean and as corrupted)."""

    learning_rate: float = 2e-2
    """The paper's centre is 3e-3, with which gates need thousands of steps to close."""

    warmup_fraction: float = 5e-2
    """Share of the steps in which the learning rate rises; it falls linearly in the rest."""

    betas: tuple[float, float] = (0.9, 0.95)
    weight_decay: float = 1e-3
    max_grad_norm: float = 1.0
    """Gradients of tau are clipped to this norm. The paper clips, but does not say at what."""

    warm_start: Method | None = None
    """A method that scores nodes: gates then start in the order of its scores."""

    warm_start_scale: float = 1e-1
    """How far from `init_noise_bias` the best and the worst node of the warm start begin."""

    freeze_norm_scales: bool = False
    """Learn gates while norms divide by what they divide by in the full model on the same prompts,
    so that no node is kept or closed for how it rescales others. A circuit is chosen by its loss
    with norms as they are. Takes another forward pass a step."""

    removal_passes: int = 3
    """How often, at most, nodes of the chosen circuit are ranked by what it loses without them, and
    removed as far as the target allows; 0 to leave the best of the ranking as they are."""

    remove_edges: bool = False
    """Afterwards remove edges in the same way: the result is an edge circuit."""

    calibrate: bool = False
    """Judge circuits after fitting scale and shift of the logit difference on the train prompts
    (16 LBFGS steps, as in the paper). Leave it off to compare with other methods, whose
    circuits are judged as they are."""

    def __post_init__(self) -> None:
        for name in ("n_steps", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}.")
        if self.temperature <= 0:
            raise ValueError(f"temperature must be positive, got {self.temperature}.")
        if not self._k_coefs:
            raise ValueError("k_coef must be a number or several, got none.")
        if self.hold_loss is not None and min(self.hold_loss, *self._k_coefs) <= 0:
            raise ValueError(
                "a weight that adapts to hold a loss needs both to be positive, got "
                f"k_coef={self.k_coef} and hold_loss={self.hold_loss}."
            )

    def rank(self, bound: BoundAblation, task: Task, *, seed: int, meter: CostMeter) -> Ranking:
        """Learn a gate for every node, in one run for each `k_coef`.

        Of several runs that one counts whose circuit, as chosen on the validation prompts (or the
        train prompts, where there are no others), has the fewest edges. The history has a row a
        step, one run after the other.
        """
        generator = torch.Generator().manual_seed(seed)
        start = self._start(bound, task, seed, generator, meter)
        # All runs start alike, and see the prompts in the same order.
        runs = [
            self._run(bound, task, k_coef, start, generator.clone_state(), meter)
            for k_coef in self._k_coefs
        ]
        best = self._smallest(bound, task, runs, meter) if len(runs) > 1 else runs[0]
        return replace(
            best,
            history=tuple(row for run in runs for row in run.history),
            warnings=tuple(warning for run in runs for warning in run.warnings),
        )

    def finish(
        self, bound: BoundAblation, chosen: ChosenCircuit, task: Task, meter: CostMeter
    ) -> ChosenCircuit:
        """The chosen circuit without what it can do without."""
        return refined(
            bound,
            chosen,
            task,
            target=self.target,
            n_passes=self.removal_passes,
            edges=self.remove_edges,
            calibrate=self._calibrate,
            meter=meter,
        )

    @property
    def _calibrate(self) -> Calibrate | None:
        return fit_calibration if self.calibrate else None

    @property
    def _k_coefs(self) -> tuple[float, ...]:
        return self.k_coef if isinstance(self.k_coef, tuple) else (self.k_coef,)

    def _smallest(
        self, bound: BoundAblation, task: Task, runs: list[Ranking], meter: CostMeter
    ) -> Ranking:
        """The run whose circuit is smallest, with this circuit where it may be chosen."""
        has_validation = task.validation is not None
        judging = task if has_validation else replace(task, validation=task.train)
        choices = [self._choose(bound, run.scores, judging, meter) for run in runs]
        best = min(range(len(runs)), key=lambda i: _size(choices[i]))
        return replace(runs[best], chosen=choices[best] if has_validation else None)

    def _run(
        self,
        bound: BoundAblation,
        task: Task,
        k_coef: float,
        start: Float[Tensor, " nodes"],
        generator: torch.Generator,
        meter: CostMeter,
    ) -> Ranking:
        """Gates that are learned with one weight of the number of nodes."""
        graph, prompts = bound.graph, task.train.to(bound.device)
        price = NodePrice(k_coef, self.hold_loss)
        tau, history = self._learn(
            bound.for_prompts(prompts), start, prompts, price, generator, meter
        )
        scores = Scores.of_nodes(graph, graph.unflatten(tau.cpu()), absolute=False)
        assert scores.nodes is not None
        gates = {site: values >= 0 for site, values in scores.nodes.items()}
        open_gates = Circuit.from_node_masks(graph, gates)
        warnings = gate_warnings(
            torch.cat(list(_of_learned_sites(graph, tau.cpu()).values())),
            mean_of_worst(self.target.bind(bound, prompts, meter=meter).losses(open_gates)),
            target_loss=self.target.scale,
            label=f"k_coef={k_coef:g}",
        )
        return Ranking(scores, history=tuple(history), warnings=warnings)

    def _start(
        self,
        bound: BoundAblation,
        task: Task,
        seed: int,
        generator: torch.Generator,
        meter: CostMeter,
    ) -> Float[Tensor, " nodes"]:
        noise = torch.randn(bound.graph.n_nodes, generator=generator)
        tau = noise * self.init_noise_scale + self.init_noise_bias
        if self.warm_start is not None:
            first = ranking_of(self.warm_start, bound, task, seed=seed, meter=meter)
            tau += self.warm_start_scale * _standing(first.scores, self.warm_start)
        return tau.clamp(-1, 1)

    def _learn(
        self,
        bound: BoundAblation,
        start: Float[Tensor, " nodes"],
        prompts: Prompts,
        price: NodePrice,
        generator: torch.Generator,
        meter: CostMeter,
    ) -> tuple[Float[Tensor, " nodes"], list[Row]]:
        """Parameters after training; among those that reached a limit, the steadier ones rank."""
        model = bound.model
        tau = start.to(prompts.clean.device, copy=True)
        tau.requires_grad_()
        optimizer = torch.optim.AdamW(
            [tau], lr=self.learning_rate, betas=self.betas, weight_decay=self.weight_decay
        )
        average = tau.detach().clone()
        history = []
        with frozen(model):
            order = PromptOrder(len(prompts), self.batch_size, generator)
            for step in range(self.n_steps):
                rate = share_of_peak(step, self.n_steps, self.warmup_fraction)
                for group in optimizer.param_groups:
                    group["lr"] = self.learning_rate * rate
                optimizer.zero_grad()
                rows = order.next().to(tau.device)
                loss, kept = self._loss(bound.rows(rows), tau, prompts[rows], generator)
                (loss + price.k_coef * kept).backward()
                meter.backward_passes += 1
                torch.nn.utils.clip_grad_norm_([tau], self.max_grad_norm)
                optimizer.step()
                with torch.no_grad():
                    tau.clamp_(-1, 1)
                    average.lerp_(tau, 0.05)
                history.append(
                    {
                        "step": float(step),
                        "objective": loss.item(),
                        "kept": kept.item(),
                        "k_coef": price.k_coef,
                    }
                )
                price.follow(loss.item())
        # tau ends at exactly 1 or -1 for many nodes: how long it has been there breaks the tie.
        return tau.detach() + 1e-4 * average, history

    def _loss(
        self,
        bound: BoundAblation,
        tau: Float[Tensor, " nodes"],
        batch: Prompts,
        generator: torch.Generator,
    ) -> tuple[Tensor, Tensor]:
        """The objective, and the number of open gates."""
        full = full_logits_for(self.objective, bound.model, batch)
        gates = StraightThrough.apply(tau, self.temperature)
        assert isinstance(gates, Tensor)
        masks = Masks(bound.graph, _of_learned_sites(bound.graph, gates), {})
        loss = mean_loss(
            self.target.under,
            bound,
            masks,
            batch,
            lambda logits: self.objective(logits, batch, full),
            generator=generator,
            freeze_norm_scales=self.freeze_norm_scales,
        )
        return loss, torch.cat(list(masks.nodes.values())).sum()


class StraightThrough(torch.autograd.Function):
    """H(tau >= 0) forward, the derivative of sigmoid(tau / temperature) backward."""

    @staticmethod
    def forward(ctx: Any, tau: Tensor, temperature: float) -> Tensor:
        ctx.save_for_backward(tau)
        ctx.temperature = temperature
        return (tau >= 0).to(tau.dtype)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None]:
        (tau,) = ctx.saved_tensors
        sigmoid = (tau / ctx.temperature).sigmoid()
        return grad_outputs[0] * sigmoid * (1 - sigmoid) / ctx.temperature, None


def _size(chosen: ChosenCircuit) -> tuple[bool, int, int]:
    """Circuits that meet the target come first, then those of few edges."""
    return not chosen.met_target, chosen.circuit.n_edges, chosen.circuit.n_nodes


def _standing(scores: Scores, method: Method) -> Float[Tensor, " nodes"]:
    """Where each node stands in the ranking, evenly from -1 for the worst to 1 for the best."""
    graph = scores.graph
    if scores.nodes is None:
        raise ValueError(
            f"warm_start must score nodes, and {type(method).__name__} scored edges of "
            f"{graph}: choose its option for nodes, such as AttributionPatching(nodes=True)."
        )
    standing = torch.empty(graph.n_nodes)
    standing[scores.importance.argsort(stable=True)] = torch.linspace(-1, 1, graph.n_nodes)
    return standing


def _of_learned_sites(
    graph: Graph, values: Float[Tensor, " nodes"]
) -> dict[str, Float[Tensor, " width"]]:
    """By site, the values of nodes that have a gate to learn; those of fixed sites always stay."""
    by_site = graph.unflatten(values)
    return {site: by_site[site] for site in by_site if site not in graph.fixed_sites}
