"""Schedules of training: the nonzero fraction and the learning rate."""

from sparse_lens.training.config import TrainingConfig


def nonzero_fraction(cfg: TrainingConfig, step: int, target: float) -> float:
    """Fraction of nonzero entries after `step` steps: linear from 1 to `target`, then constant."""
    annealing = max(1, round(cfg.anneal_fraction * cfg.n_steps))
    progress = min(1.0, step / annealing)
    return 1.0 + (target - 1.0) * progress


def learning_rate(cfg: TrainingConfig, step: int) -> float:
    """Learning rate of step `step`: warm-up, linear decay, and the "sharkfin" of the paper.

    While weights are annealed the rate is scaled by 1 / sqrt(L0), relative to the target L0.
    """
    warmup = max(1, round(cfg.warmup_fraction * cfg.n_steps))
    rising = min(1.0, (step + 1) / warmup)
    falling = 1.0 - max(0, step - warmup) / max(1, cfg.n_steps - warmup)
    rate = cfg.learning_rate * rising * falling
    if cfg.sharkfin and cfg.weight_fraction is not None:
        rate *= (cfg.weight_fraction / nonzero_fraction(cfg, step, cfg.weight_fraction)) ** 0.5
    return rate
