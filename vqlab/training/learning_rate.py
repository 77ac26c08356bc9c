"""One learning-rate rule for all models: ``lr`` is absolute, ``base_lr`` is scaled with the global batch."""

import math
from collections.abc import Iterable
from typing import Any

import lightning
import torch
from lightning.pytorch.utilities import rank_zero_info
from torch import nn

from vqlab.errors import UserError
from vqlab.training.schedules import Schedule


def check_lr(lr: float | None, base_lr: float | None) -> None:
    """Raise UserError if both rates are given, or one is not a positive number."""
    if lr is not None and base_lr is not None:
        raise UserError(f"lr={lr} and base_lr={base_lr} are both given: set one of --model.lr, --model.base_lr to null")
    for name, value in (("lr", lr), ("base_lr", base_lr)):
        if value is not None and not (value > 0 and math.isfinite(value)):
            raise UserError(f"{name} must be a positive number, got {value}: set --model.{name}")


def equivalent_lr(
    lr: float | None,
    base_lr: float | None,
    default: float,
    batch_size: int,
    devices: int = 1,
    nodes: int = 1,
    accumulate: int = 1,
) -> float:
    """Return the absolute rate: ``lr``, or ``base_lr`` x batch x devices x nodes x accumulation, or ``default``.

    The product is the rule of taming-transformers (Esser et al. 2021); ``batch_size`` is per device.

    Example:
        >>> round(equivalent_lr(None, 4.5e-6, default=3e-4, batch_size=128, devices=4), 6)
        0.002304
    """
    if base_lr is None:
        return default if lr is None else lr
    return base_lr * batch_size * devices * nodes * accumulate


def adam(
    module: lightning.LightningModule,
    parameters: Iterable[nn.Parameter],
    *,
    lr: float | None,
    base_lr: float | None,
    default_lr: float,
    betas: tuple[float, float],
    weight_decay: float,
    schedule: Schedule,
    name: str,
) -> dict[str, Any]:
    """Return Adam (decoupled weight decay) with its schedule, as ``configure_optimizers`` hands it to Lightning.

    Says the equivalent learning rate in one line and logs it; the monitored rate is called ``lr/<name>``.
    """
    trainer = module.trainer
    trainer.fit_loop.setup_data()  # before this the loader, and so the batch size, is unknown
    steps = trainer.estimated_stepping_batches
    batch_size = getattr(trainer.train_dataloader, "batch_size", None) or 1
    devices, accumulate = trainer.world_size // trainer.num_nodes, trainer.accumulate_grad_batches
    rate = equivalent_lr(lr, base_lr, default_lr, batch_size, devices, trainer.num_nodes, accumulate)
    if base_lr is not None:
        rank_zero_info(
            f"equivalent lr {rate:.3e} = base_lr {base_lr:g} x batch {batch_size} x {devices} devices "
            f"x {trainer.num_nodes} nodes x accumulation {accumulate}"
        )
    else:
        rank_zero_info(f"lr {rate:.3e}, global batch {batch_size * devices * trainer.num_nodes * accumulate}")
    for logger in trainer.loggers:
        logger.log_hyperparams({"equivalent_lr": rate})
    optimizer = torch.optim.AdamW(parameters, lr=rate, betas=betas, weight_decay=weight_decay)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: schedule.factor(step, steps))
    return {
        "optimizer": optimizer,
        "lr_scheduler": {"scheduler": scheduler, "interval": "step", "name": f"lr/{name}"},
    }


def keep_configured_lr(module: lightning.LightningModule, checkpoint: dict[str, Any]) -> None:
    """Make a resumed run follow the learning rate it is configured with, not the one stored in the checkpoint.

    Called from ``on_load_checkpoint``; Lightning restores optimizers and schedulers from ``checkpoint`` afterwards.
    """
    schedulers = [config.scheduler for config in module.trainer.lr_scheduler_configs]
    for scheduler, stored in zip(schedulers, checkpoint.get("lr_schedulers", []), strict=False):
        if list(stored["base_lrs"]) == list(scheduler.base_lrs):
            continue
        rank_zero_info(f"learning rate: checkpoint {stored['base_lrs'][0]:.3e}, now {scheduler.base_lrs[0]:.3e}; the new value wins")
        factors = [f(stored["last_epoch"]) for f in scheduler.lr_lambdas]
        stored["base_lrs"] = list(scheduler.base_lrs)
        stored["_last_lr"] = [lr * f for lr, f in zip(scheduler.base_lrs, factors, strict=True)]
    for optimizer, stored in zip(module.trainer.optimizers, checkpoint.get("optimizer_states", []), strict=False):
        config = next((c for c in checkpoint.get("lr_schedulers", [])), None)
        if config is None:
            continue
        for group, new, rate in zip(stored["param_groups"], optimizer.param_groups, config["_last_lr"], strict=False):
            group["initial_lr"], group["lr"] = new["initial_lr"], rate


def reset_moments(optimizer: torch.optim.Optimizer, parameter: nn.Parameter, rows: torch.Tensor) -> None:
    """Zero what ``optimizer`` remembers of the rows (bool mask over dim 0) of ``parameter`` that were overwritten."""
    for value in optimizer.state.get(parameter, {}).values():
        if torch.is_tensor(value) and value.shape == parameter.shape:
            value.masked_fill_(rows.reshape(-1, *[1] * (value.ndim - 1)), 0)
