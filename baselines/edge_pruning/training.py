"""The optimisation of the gates: its steps, and checkpoints of its state."""

from __future__ import annotations

import io
import math
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sparse_lens.atomic import write_atomically
from sparse_lens.baselines.edge_pruning.gates import EdgeGates
from sparse_lens.conditions import mean_loss
from sparse_lens.cost import CostMeter
from sparse_lens.identity import tensor_hash
from sparse_lens.learning import PromptOrder, share_of_peak
from sparse_lens.patching import BoundAblation, full_logits, full_logits_for
from sparse_lens.task import Prompts

if TYPE_CHECKING:
    from sparse_lens.baselines.edge_pruning.method import EdgePruning

Row = dict[str, float]

_PROBE = "objective with all gates half open"
"""In a checkpoint's identity: tells models, prompts and ablations apart without hashing them."""

_FULL_LOGITS_ELEMENTS = 2**27
"""Up to this size the full model's logits of all prompts are kept, not recomputed in each step."""


class Training:
    """The state of the optimisation, which checkpoints save, and its steps."""

    def __init__(
        self,
        method: EdgePruning,
        bound: BoundAblation,
        gates: EdgeGates,
        prompts: Prompts,
        order: Tensor | None,
        seed: int,
    ) -> None:
        self._method, self._gates = method, gates
        self._prompts, self._order, self._seed = prompts.to(bound.device), order, seed
        self._bound = bound.for_prompts(self._prompts)
        self._generator = torch.Generator().manual_seed(seed)
        noise = torch.randn(gates.n_gates, generator=self._generator)
        log_alpha = method.initial_mean + method.initial_std * noise
        if order is not None:
            log_alpha[: gates.n_edges] -= method.initial_spread * (1 - order)
        self.log_alpha = log_alpha.to(bound.device).requires_grad_()
        self._multipliers = torch.zeros(2, device=bound.device, requires_grad=True)
        self._optimizer = torch.optim.AdamW(
            [{"params": [self.log_alpha]}, {"params": [self._multipliers], "maximize": True}],
            weight_decay=method.weight_decay,
        )
        self._prompt_order = PromptOrder(len(prompts), method.batch_size, self._generator)
        self._kept_full_logits = self._full_logits()
        self.history: list[Row] = []

    def run(self, meter: CostMeter) -> None:
        """All steps that remain."""
        method = self._method
        path = None if method.checkpoint is None else Path(method.checkpoint)
        if path is not None and not path.parent.is_dir():
            raise FileNotFoundError(f"there is no folder {path.parent} for the checkpoint.")
        identity = {} if path is None else self._identity()
        if path is not None and path.exists():
            self._load(path, identity)
        while len(self.history) < method.n_steps:
            self.history.append(self._step(meter))
            n_done = len(self.history)
            is_due = n_done % method.checkpoint_every == 0 or n_done == method.n_steps
            if path is not None and is_due:
                self._save(path, identity)

    def _step(self, meter: CostMeter) -> Row:
        method, gates = self._method, self._gates
        step = len(self.history)
        rate = share_of_peak(step, method.n_steps, method.warmup_fraction)
        gate_group, multiplier_group = self._optimizer.param_groups
        gate_group["lr"] = method.learning_rate * rate
        multiplier_group["lr"] = method.multiplier_learning_rate * rate
        self._optimizer.zero_grad()

        gates_drawn = method.gate.sample(self.log_alpha, self._generator)
        # Gradients of all micro-batches add up at a detached leaf; one backward pass then takes
        # their sum from there to log alpha.
        leaf = gates_drawn.detach().requires_grad_()
        rows = self._prompt_order.next().to(leaf.device)
        objective = self._objective(leaf, rows, meter)
        counted = gates_drawn
        if method.expected_l0:
            counted = method.gate.probability_open(self.log_alpha)
        sparsity = 1 - gates.kept(counted) / gates.n_edges
        target = method.target_sparsity * min(
            1.0, step / max(1.0, method.target_warmup_fraction * method.n_steps)
        )
        excess = sparsity - target
        # lambda_1 (s - t) + lambda_2 (s - t)^2: log alpha descends, the multipliers ascend.
        penalty = self._multipliers @ torch.stack([excess, excess.square()])
        torch.autograd.backward([gates_drawn, penalty], [leaf.grad, None])
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
        """The mean over some prompts.

        With a meter it is also over the conditions of the target, and its gradient is accumulated
        at the gates.
        """
        method, model = self._method, self._bound.model
        total = 0.0
        for indices in rows.split(method.micro_batch_size or len(rows)):
            batch, ablation = self._prompts[indices], self._bound.rows(indices)
            if self._kept_full_logits is None:
                full = full_logits_for(method.objective, model, batch)
            else:
                full = self._kept_full_logits[indices]
            loss = len(batch) * mean_loss(
                () if meter is None else method.target.under,
                ablation,
                self._gates.masks(gates),
                batch,
                lambda logits, batch=batch, full=full: method.objective(logits, batch, full),
                generator=self._generator,
            )
            if meter is not None:
                (loss / len(rows)).backward()
                meter.backward_passes += 1
            total += loss.item()
        return total / len(rows)

    def _full_logits(self) -> Float[Tensor, "n vocab"] | None:
        """The full model's logits of all prompts, if the objective needs them and they fit."""
        method, model = self._method, self._bound.model
        elements = len(self._prompts) * model.cfg.d_vocab_out
        if not method.objective.needs_full_logits or elements > _FULL_LOGITS_ELEMENTS:
            return None
        size = method.micro_batch_size or method.batch_size
        return torch.cat([full_logits(model, part) for part in self._prompts.batches(size)])

    # Checkpoints.

    def _save(self, path: Path, identity: dict[str, Any]) -> None:
        """Write everything that the remaining steps depend on."""
        state = {
            "identity": identity,
            "log_alpha": self.log_alpha.detach(),
            "multipliers": self._multipliers.detach(),
            "optimizer": self._optimizer.state_dict(),
            "generator": self._generator.get_state(),
            "queue": self._prompt_order.queue,
            "history": self.history,
        }
        content = io.BytesIO()
        torch.save(state, content)
        write_atomically(path, content.getvalue())

    def _load(self, path: Path, identity: dict[str, Any]) -> None:
        state = torch.load(path, map_location="cpu", weights_only=True)
        for name, current in identity.items():
            saved = state["identity"].get(name)
            is_same = current == saved
            if name == _PROBE and saved is not None:
                is_same = math.isclose(current, saved, rel_tol=0.02, abs_tol=1e-4)
            if not is_same:
                raise ValueError(
                    f"the checkpoint {path} is of another run: its {name} is {saved}, here it is "
                    f"{current}. Pass another path, or remove the file to start anew."
                )
        with torch.no_grad():
            self.log_alpha.copy_(state["log_alpha"])
            self._multipliers.copy_(state["multipliers"])
        self._optimizer.load_state_dict(state["optimizer"])
        self._generator.set_state(state["generator"])
        self._prompt_order.queue, self.history = state["queue"], state["history"]

    @torch.no_grad()
    def _identity(self) -> dict[str, Any]:
        """What must be equal for a checkpoint to belong to this run."""
        may_differ = (
            "checkpoint",
            "checkpoint_every",
            "micro_batch_size",
            "initial",
            "target",
        )
        settings = {f.name: repr(getattr(self._method, f.name)) for f in fields(self._method)}
        half_open = torch.full_like(self.log_alpha, 0.5)
        first_rows = torch.arange(min(self._method.batch_size, len(self._prompts)))
        return {
            **{name: value for name, value in settings.items() if name not in may_differ},
            "seed": self._seed,
            "graph": self._bound.graph.fingerprint,
            "initial order": None if self._order is None else tensor_hash(self._order),
            _PROBE: self._objective(half_open, first_rows.to(half_open.device)),
        }
