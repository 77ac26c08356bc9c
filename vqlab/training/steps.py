"""Parts of a training step: the check for NaN; in manual optimization also gradients, optimizer steps and counters.

A step is a batch everywhere: Lightning counts calls of optimizers, so two optimizers would halve ``max_steps``.
"""

import warnings
from collections.abc import Iterable
from typing import Any

import lightning
import torch
import torch.distributed as dist
from torch import Tensor

from vqlab.errors import UserError
from vqlab.nn.distributed import means_over_ranks, world_size
from vqlab.training.lightning_fixes import count_step


class NonFiniteError(UserError):
    """The loss ``terms`` are NaN or infinite."""

    def __init__(self, terms: list[str], batch_idx: int, step: int) -> None:
        self.terms, self.batch_idx, self.step = terms, batch_idx, step
        super().__init__(
            f"{', '.join(terms)} is NaN or infinite at batch {batch_idx} (step {step}), which did not change the "
            f"weights: lower --model.lr, or inspect the data of this batch"
        )


def require_finite(terms: dict[str, Tensor], batch_idx: int, step: int) -> None:
    """Raise :class:`NonFiniteError` on all ranks if a term (scalar tensor) is not finite on one; all must call it."""
    bad = ~torch.stack([term.detach().float() for term in terms.values()]).isfinite()
    if world_size() > 1:
        bad = bad.to(torch.uint8)
        dist.all_reduce(bad, op=dist.ReduceOp.MAX)
    names = [name for name, is_bad in zip(terms, bad.tolist(), strict=True) if is_bad]
    if names:
        raise NonFiniteError(names, batch_idx, step)


def clip_option(module: lightning.LightningModule) -> str:
    """Return the option that clips gradients: the model's, or the Trainer's with automatic optimization."""
    return "trainer.gradient_clip_val" if module.automatic_optimization else "model.optimization.clip"


def refuse_trainer_options(clip: Any, accumulate: Any, module: lightning.LightningModule) -> None:
    """Raise UserError if the Trainer is set to ``clip`` or ``accumulate`` for a model with manual optimization."""
    name = type(module).__name__
    if clip:
        rule = f"gradient_clip_val must be null for {name}, which clips each network separately"
        raise UserError(f"{rule}: set optimization.clip={clip}")
    if accumulate and accumulate != 1:
        hint = f"set accumulate={accumulate}" if "accumulate" in module.hparams else "raise batch_size"
        raise UserError(f"accumulate_grad_batches must be 1 for {name}, which steps its optimizers itself: {hint}")


def collect(loss: Tensor, parameters: Iterable[Tensor]) -> None:
    """Add the gradients of ``loss``, averaged over ranks, to those of ``parameters`` only."""
    weights = list(parameters)
    gradients = means_over_ranks(torch.autograd.grad(loss, weights, materialize_grads=True))
    for weight, gradient in zip(weights, gradients, strict=True):
        if gradient.stride() != weight.stride():  # as after backward(); a fused optimizer relies on it
            gradient = torch.empty_like(weight).copy_(gradient)
        weight.grad = gradient if weight.grad is None else weight.grad + gradient


def clip(parameters: Any, max_norm: float | None) -> None:
    """Scale the gradients of ``parameters`` so that their joint L2 norm is at most ``max_norm``, if it is given."""
    if max_norm is not None:
        torch.nn.utils.clip_grad_norm_(parameters, max_norm)


def step_and_zero(module: lightning.LightningModule, optimizer: Any) -> None:
    """Run the hooks ``on_before_optimizer_step``, step ``optimizer``, and zero the gradients of all networks."""
    module.trainer.strategy.optimizer_step(optimizer, lambda: None)
    for other in module.trainer.optimizers:
        other.zero_grad()


def count_batch(module: lightning.LightningModule) -> None:
    """Increment ``global_step`` and step the learning-rate schedules: once per batch, with or without a step."""
    count_step(module.trainer)
    with warnings.catch_warnings():  # the schedule of a discriminator starts before its optimizer
        warnings.filterwarnings("ignore", message="Detected call of `lr_scheduler.step")
        for config in module.trainer.lr_scheduler_configs:
            config.scheduler.step()  # type: ignore[call-arg]  # none of vqlab's waits for a metric
