"""Learning rates of all models: ``lr`` is absolute, ``base_lr`` is scaled with the global batch; schedules."""

import math
from dataclasses import dataclass
from typing import Any, Literal

import lightning
import torch
from lightning.pytorch.utilities import rank_zero_info

from vqlab.errors import UserError
from vqlab.training.lightning_fixes import training_batch_size
from vqlab.validation import Count, Fraction, NonNegativeInt, Positive, Probability, check_fields


@dataclass(frozen=True)
class Schedule:
    """A factor on the learning rate, counted in optimizer steps: linear warm-up, then the named decay.

    Args:
        kind: ``constant``; ``cosine`` or ``linear`` from 1 to ``final_factor`` at ``total_steps``; ``step`` (times
            ``gamma`` every ``decay_steps``, not below ``final_factor``); ``exponential`` (the same, continuously).
        warmup_steps: Steps of linear warm-up from 0.
        total_steps: Last step of cosine and linear. Default: the length of the training.
        decay_start: Part of the steps after the warm-up at the full rate, before cosine or linear begins.
        final_factor: Lowest factor of all but ``constant``.
        decay_steps: Steps per factor of ``gamma``.
        gamma: Decay of ``step`` and ``exponential``.

    Raises:
        UserError: If an argument is out of range, or the warm-up is not shorter than ``total_steps``.

    Example:
        >>> schedule = Schedule("cosine", warmup_steps=10, total_steps=110)
        >>> [round(schedule.factor(step), 3) for step in (0, 4, 9, 60, 110)]
        [0.1, 0.5, 1.0, 0.5, 0.0]
    """

    kind: Literal["constant", "cosine", "linear", "step", "exponential"] = "constant"
    warmup_steps: NonNegativeInt = 0
    total_steps: int | None = None
    decay_start: Probability = 0.0
    final_factor: Fraction = 0.0
    decay_steps: Count = 1000
    gamma: Positive = 0.5

    def __post_init__(self) -> None:
        check_fields(self)
        if self.total_steps is not None and self.total_steps <= self.warmup_steps:
            given = f"{self.warmup_steps} of {self.total_steps}"
            raise UserError(f"warmup_steps must be less than total_steps, got {given}")

    def factor(self, step: int, training_steps: float = math.inf) -> float:
        """Return the factor of the step with index ``step``; ``training_steps`` is the default of ``total_steps``."""
        if step < self.warmup_steps:
            return (step + 1) / self.warmup_steps
        after = step - self.warmup_steps
        total = training_steps if self.total_steps is None else self.total_steps
        progress = min(1.0, after / max(1, total - self.warmup_steps))
        progress = max(0.0, progress - self.decay_start) / (1 - self.decay_start)
        match self.kind:
            case "cosine":
                return self.final_factor + (1 - self.final_factor) * (1 + math.cos(math.pi * progress)) / 2
            case "linear":
                return 1 + (self.final_factor - 1) * progress
            case "step":
                return max(self.final_factor, self.gamma ** (after // self.decay_steps))
            case "exponential":
                return max(self.final_factor, self.gamma ** (after / self.decay_steps))
            case _:
                return 1.0


def check_lr(lr: float | None, base_lr: float | None) -> None:
    """Raise UserError if both rates are given."""
    if lr is not None and base_lr is not None:
        raise UserError(f"lr={lr} and base_lr={base_lr} are both given: set one of the two to null")


def configured_rate(
    module: lightning.LightningModule, lr: float | None, base_lr: float | None, default_lr: float, name: str
) -> float:
    """Return, print and log the absolute learning rate: ``lr``, the scaled ``base_lr``, or the default.

    ``base_lr`` x batch x devices x nodes x accumulation is the rule of taming-transformers (Esser et al. 2021).
    """
    trainer: Any = module.trainer
    if base_lr is None:
        rate = default_lr if lr is None else lr
        rank_zero_info(f"lr/{name}: {rate:.3e}")
    else:
        batch_size = training_batch_size(trainer)
        if batch_size is None:
            raise UserError("base_lr needs data with a batch_size: set lr instead")
        nodes, devices = trainer.num_nodes, trainer.world_size // trainer.num_nodes
        accumulate = getattr(module, "accumulate", trainer.accumulate_grad_batches)
        rate = base_lr * batch_size * devices * nodes * accumulate
        rule = f"{base_lr:g} x batch {batch_size} x {devices} devices x {nodes} nodes x accumulation {accumulate}"
        rank_zero_info(f"lr/{name}: equivalent lr {rate:.3e} = base_lr {rule}")
    for logger in trainer.loggers:
        logger.log_hyperparams({f"equivalent_lr/{name}": rate})
    return rate


def scheduled(
    module: lightning.LightningModule, optimizer: torch.optim.Optimizer, schedule: Schedule, name: str
) -> dict[str, Any]:
    """Return ``optimizer`` with its schedule, for ``configure_optimizers``."""
    trainer: Any = module.trainer
    rates: Any = getattr(module, "configured_lr", {})
    own = [group["lr"] for group in optimizer.param_groups]
    module.configured_lr = {**rates, f"lr/{name}": own}  # type: ignore[assignment]  # see keep_configured_lr

    def factor(step: int) -> float:
        callbacks = [callback.lr_factor for callback in trainer.callbacks if hasattr(callback, "lr_factor")]
        return schedule.factor(step, training_steps(trainer)) * math.prod(callbacks)  # such as Plateau

    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
    interval = {"interval": "step"} if module.automatic_optimization else {}  # else count_batch steps the schedules
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "name": f"lr/{name}", **interval}}


def training_steps(trainer: lightning.Trainer) -> float:
    """Return the length of the training in optimizer steps, infinite if it is unknown before the data are loaded."""
    # Lightning restores a loader's position only while it loads the data itself, so they are not loaded here.
    if trainer.train_dataloader is None or trainer.max_epochs == -1:
        return math.inf if trainer.max_steps == -1 else trainer.max_steps
    return trainer.estimated_stepping_batches


def keep_configured_lr(module: lightning.LightningModule) -> None:
    """Replace the stored learning rate of a resumed run by the configured one; called from ``on_train_start``."""
    rates: Any = module.configured_lr
    for config in module.trainer.lr_scheduler_configs:
        scheduler = config.scheduler
        for number, (group, rate) in enumerate(zip(scheduler.optimizer.param_groups, rates[config.name], strict=True)):
            old = scheduler.base_lrs[number]
            if old == rate:
                continue
            if number == 0 or "name" in group:
                name = f"lr/{group['name']}" if "name" in group else config.name
                rank_zero_info(f"{name}: {old:.3e} in the checkpoint, {rate:.3e} now; the new value wins")
            scheduler.base_lrs[number] = rate
            group["initial_lr"], group["lr"] = rate, group["lr"] / old * rate


def reset_moments(optimizer: torch.optim.Optimizer, parameter: torch.Tensor, rows: torch.Tensor) -> None:
    """Zero the optimizer state of the ``rows`` (bool mask over dim 0) of ``parameter`` that were overwritten."""
    for value in optimizer.state.get(parameter, {}).values():
        if torch.is_tensor(value) and value.shape == parameter.shape:
            value.masked_fill_(rows.reshape(-1, *[1] * (value.ndim - 1)), 0)
