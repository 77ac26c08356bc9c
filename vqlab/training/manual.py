"""Manual optimisation, in which several players train on one batch: what the models that need it share.

Everything a user sees counts batches: ``global_step``, ``max_steps``, schedules, checkpoints and the log. Lightning by
itself counts every call of an optimizer, so that two players would halve ``max_steps``.
"""

import warnings
from collections.abc import Iterable
from typing import Any

import lightning
import torch
from torch import Tensor

from vqlab.errors import UserError
from vqlab.nn.distributed import means_over_ranks


def refuse_unsound(trainer: lightning.Trainer) -> None:
    """Raise UserError where the Trainer's settings cannot be right for a model that steps its optimizers itself.

    Call it from ``setup("fit")``.
    """
    if str(trainer.precision) == "16-mixed":
        raise UserError(
            "16-mixed scales the losses of all players by one factor and clips scaled gradients: "
            "set --trainer.precision=bf16-mixed or 32-true"
        )


def clip_options(module: lightning.LightningModule) -> list[str]:
    """Return the model's own options that clip gradients; none where the Trainer does so."""
    return [f"--model.{name}" for name in dict(module.hparams) if name.startswith("clip")]


def refuse_trainer_options(
    clip: Any, accumulate: Any, module: lightning.LightningModule, command_line: bool = True
) -> None:
    """Raise UserError if clipping or accumulation is asked of the Trainer, which cannot do it for such a ``module``.

    Args:
        clip: The Trainer's ``gradient_clip_val``.
        accumulate: The Trainer's ``accumulate_grad_batches``.
        module: The model.
        command_line: Whether to name options of the command line, or arguments.
    """
    name = type(module).__name__
    model, data, trainer = (
        ("--model.", "--data.", "--trainer.") if command_line else (f"{name}'s ", "", "the Trainer's ")
    )
    if clip:
        hint = " ".join(option.replace("--model.", model) + f"={clip}" for option in clip_options(module))
        raise UserError(f"{name} clips each optimizer: set {hint} instead of {trainer}gradient_clip_val")
    if accumulate and accumulate != 1:
        hint = (
            f"accumulates itself: set {model}accumulate={accumulate}"
            if "accumulate" in module.hparams
            else f"steps at each batch: raise {data}batch_size"
        )
        raise UserError(f"{name} {hint} instead of {trainer}accumulate_grad_batches")


def collect(loss: Tensor, parameters: Iterable[Tensor]) -> None:
    """Add the gradients of ``loss`` to those of ``parameters``, means over the ranks: no other player's are touched."""
    weights = list(parameters)
    gradients = means_over_ranks(torch.autograd.grad(loss, weights, materialize_grads=True))
    for weight, gradient in zip(weights, gradients, strict=True):
        weight.grad = gradient if weight.grad is None else weight.grad + gradient


def step_and_zero(module: lightning.LightningModule, optimizer: Any) -> None:
    """Step ``optimizer``, after the hooks ``on_before_optimizer_step``, and zero the gradients of all players."""
    module.trainer.strategy.optimizer_step(optimizer, lambda: None)
    for player in module.trainer.optimizers:
        player.zero_grad()


def count_batch(module: lightning.LightningModule) -> None:
    """Raise ``global_step`` by one and move the learning-rate schedules on: once per batch, stepped or accumulated."""
    progress = module.trainer.fit_loop.epoch_loop.manual_optimization.optim_step_progress
    progress.increment_ready()
    progress.increment_completed()
    with warnings.catch_warnings():  # a player that waits for its start has a schedule, too
        warnings.filterwarnings("ignore", message="Detected call of `lr_scheduler.step")
        for config in module.trainer.lr_scheduler_configs:
            config.scheduler.step()  # type: ignore[call-arg]  # none of vqlab's waits for a metric


def clip(parameters: Any, max_norm: float | None) -> None:
    """Scale the gradients of ``parameters`` so that their joint L2 norm is at most ``max_norm``; None leaves them."""
    if max_norm is not None:
        torch.nn.utils.clip_grad_norm_(parameters, max_norm)
