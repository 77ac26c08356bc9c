"""One learning-rate rule for all models: ``lr`` is absolute, ``base_lr`` is scaled with the global batch."""

import math
from typing import Any

import lightning
import torch
from lightning.pytorch.utilities import rank_zero_info

from vqlab.errors import UserError
from vqlab.training.schedules import Schedule


def check_lr(lr: float | None, base_lr: float | None) -> None:
    """Raise UserError if both rates are given."""
    if lr is not None and base_lr is not None:
        raise UserError(f"lr={lr} and base_lr={base_lr} are both given: set one of the two to null")


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


def configured_rate(
    module: lightning.LightningModule, lr: float | None, base_lr: float | None, default_lr: float, name: str
) -> float:
    """Return the absolute rate ``lr/<name>`` for the module's Trainer and data; say it in one line, and log it."""
    trainer: Any = module.trainer
    batch_size = getattr(trainer.datamodule or trainer.fit_loop._data_source.instance, "batch_size", None)
    if batch_size is None and base_lr is not None:
        raise UserError("base_lr needs data with a batch_size: set lr instead")
    devices, nodes, accumulate = (
        trainer.world_size // trainer.num_nodes,
        trainer.num_nodes,
        getattr(module, "accumulate", trainer.accumulate_grad_batches),  # a model that steps by itself has its own
    )
    rate = equivalent_lr(lr, base_lr, default_lr, batch_size or 1, devices, nodes, accumulate)
    if base_lr is not None:
        rule = (
            f"base_lr {base_lr:g} x batch {batch_size} x {devices} devices x {nodes} nodes x accumulation {accumulate}"
        )
        rank_zero_info(f"lr/{name}: equivalent lr {rate:.3e} = {rule}")
    else:
        rank_zero_info(f"lr/{name}: {rate:.3e}")
    for logger in trainer.loggers:
        logger.log_hyperparams({f"equivalent_lr/{name}": rate})
    return rate


def scheduled(
    module: lightning.LightningModule, optimizer: torch.optim.Optimizer, schedule: Schedule, name: str
) -> dict[str, Any]:
    """Return ``optimizer`` with its schedule, as ``configure_optimizers`` hands it to Lightning."""
    trainer: Any = module.trainer
    rates: Any = getattr(module, "configured_lr", {})
    own = [group["lr"] for group in optimizer.param_groups]
    module.configured_lr = {**rates, f"lr/{name}": own}  # type: ignore[assignment]  # see keep_configured_lr
    scheduler = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: schedule.factor(step, training_steps(trainer)) * callbacks_factor(trainer)
    )
    interval = {"interval": "step"} if module.automatic_optimization else {}  # a manual step advances its schedules
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "name": f"lr/{name}", **interval}}


def callbacks_factor(trainer: lightning.Trainer) -> float:
    """Return the product of what callbacks have as ``lr_factor``, such as ``Plateau``."""
    callbacks: Any = trainer.callbacks  # type: ignore[attr-defined]
    return math.prod([callback.lr_factor for callback in callbacks if hasattr(callback, "lr_factor")])


def training_steps(trainer: lightning.Trainer) -> float:
    """Return the length of the training in optimizer steps, infinite where it is not known (yet).

    The data are not loaded to find out: Lightning restores a loader's place only while it loads the data itself, so
    asking early would make a resumed run begin its epoch again. The first step's factor does not depend on the length.
    """
    if trainer.train_dataloader is None or trainer.max_epochs == -1:
        return math.inf if trainer.max_steps == -1 else trainer.max_steps
    return trainer.estimated_stepping_batches


def keep_configured_lr(module: lightning.LightningModule) -> None:
    """Make a resumed run follow the learning rate it is configured with, not the one that its checkpoint stored.

    Called from ``on_train_start``, when Lightning has restored optimizers and schedulers.
    """
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
    """Zero what ``optimizer`` remembers of the rows (bool mask over dim 0) of ``parameter`` that were overwritten."""
    for value in optimizer.state.get(parameter, {}).values():
        if torch.is_tensor(value) and value.shape == parameter.shape:
            value.masked_fill_(rows.reshape(-1, *[1] * (value.ndim - 1)), 0)
