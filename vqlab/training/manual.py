"""Manual optimisation, in which several networks train on one batch: what the models that need it share.

Everything a user sees counts batches: ``global_step``, ``max_steps``, schedules, checkpoints and the log. Lightning by
itself counts every call of an optimizer, so that two optimizers would halve ``max_steps``.
"""

import warnings
from collections.abc import Iterable
from typing import Any

import lightning
import torch
from torch import Tensor

from vqlab.errors import UserError
from vqlab.nn.distributed import means_over_ranks
from vqlab.training.lightning_fixes import count_step


def refuse_unsound(trainer: lightning.Trainer) -> None:
    """Raise UserError for a precision that cannot be right for a model that steps its optimizers itself."""
    if str(trainer.precision) == "16-mixed":
        raise UserError(
            "16-mixed scales the losses of all networks by one factor and clips scaled gradients: "
            "set --trainer.precision=bf16-mixed or 32-true"
        )


def clip_option(module: lightning.LightningModule) -> str:
    """Return the option that clips gradients: the model's own, or the Trainer's where that steps the model."""
    return "trainer.gradient_clip_val" if module.automatic_optimization else "model.optimization.clip"


def refuse_trainer_options(clip: Any, accumulate: Any, module: lightning.LightningModule) -> None:
    """Raise UserError if the Trainer is asked to ``clip`` or ``accumulate``, which it cannot do for ``module``."""
    name = type(module).__name__
    if clip:
        raise UserError(
            f"gradient_clip_val must be null for {name}, which clips each optimizer by itself: set optimization.clip="
            f"{clip}"
        )
    if accumulate and accumulate != 1:
        hint = f"set accumulate={accumulate}" if "accumulate" in module.hparams else "raise batch_size"
        raise UserError(f"accumulate_grad_batches must be 1 for {name}, which steps by itself: {hint}")


def collect(loss: Tensor, parameters: Iterable[Tensor]) -> None:
    """Add the gradients of ``loss`` to those of ``parameters``, means over the ranks, and to no others."""
    weights = list(parameters)
    gradients = means_over_ranks(torch.autograd.grad(loss, weights, materialize_grads=True))
    for weight, gradient in zip(weights, gradients, strict=True):
        weight.grad = gradient if weight.grad is None else weight.grad + gradient


def clip(parameters: Any, max_norm: float | None) -> None:
    """Scale the gradients of ``parameters`` so that their joint L2 norm is at most ``max_norm``; None leaves them."""
    if max_norm is not None:
        torch.nn.utils.clip_grad_norm_(parameters, max_norm)


def step_and_zero(module: lightning.LightningModule, optimizer: Any) -> None:
    """Step ``optimizer``, after the hooks ``on_before_optimizer_step``, and zero the gradients of all networks."""
    module.trainer.strategy.optimizer_step(optimizer, lambda: None)
    for other in module.trainer.optimizers:
        other.zero_grad()


def count_batch(module: lightning.LightningModule) -> None:
    """Raise ``global_step`` by one and move the learning-rate schedules on: once per batch, stepped or accumulated."""
    count_step(module.trainer)
    with warnings.catch_warnings():  # a discriminator that waits for its start has a schedule, too
        warnings.filterwarnings("ignore", message="Detected call of `lr_scheduler.step")
        for config in module.trainer.lr_scheduler_configs:
            config.scheduler.step()  # type: ignore[call-arg]  # none of vqlab's waits for a metric
