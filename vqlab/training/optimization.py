"""Optimizer, schedule and gradient clipping, as one dataclass for all models."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

import torch

from vqlab.training.learning_rate import Schedule, configured_rate, scheduled
from vqlab.training.muon import Muon
from vqlab.validation import NonNegative, Positive, Probability, check_fields


@dataclass(frozen=True)
class Optimization:
    """Optimizer settings, except the learning rate, which is an argument of the model.

    Args:
        kind: ``adam``, with decoupled weight decay (AdamW); ``muon``, for matrices and convolutions, with AdamW for
            the other parameters; or ``rmsprop``, without betas and decay.
        betas: Adam's decay rates.
        weight_decay: Decoupled weight decay; never on codebooks.
        schedule: Learning-rate schedule, counted as ``global_step``; null is constant.
        clip: Largest gradient norm; null does not clip. VQVAE, S4DVQ and the priors use the Trainer's
            ``gradient_clip_val`` instead.

    Raises:
        UserError: If an argument is out of range.

    Example:
        >>> Optimization(betas=(0.5, 0.9), schedule=Schedule("cosine")).schedule.factor(50, training_steps=100)
        0.5
    """

    kind: Literal["adam", "muon", "rmsprop"] = "adam"
    betas: tuple[Probability, Probability] = (0.9, 0.999)
    weight_decay: NonNegative = 0.0
    schedule: Schedule | None = None
    clip: Positive | None = None

    def __post_init__(self) -> None:
        check_fields(self)
        object.__setattr__(self, "betas", tuple(self.betas))  # a checkpoint stores a list

    def optimizer(self, model: Any, parameters: Iterable[Any], name: str, lr: float | None = None) -> dict[str, Any]:
        """Return an optimizer with its schedule, for ``configure_optimizers``.

        Parameter groups may have their own ``lr`` and ``name``; the others have ``lr`` or the model's.
        """
        base_lr = model.base_lr if lr is None else None
        rate = configured_rate(model, model.lr if lr is None else lr, base_lr, model.default_lr, name)
        optimizer: torch.optim.Optimizer
        if self.kind == "rmsprop":
            optimizer = torch.optim.RMSprop(parameters, lr=rate)
        elif self.kind == "muon":
            optimizer = Muon(muon_groups(parameters), lr=rate, betas=self.betas, weight_decay=self.weight_decay)
        else:
            # With automatic optimization Lightning clips, but under mixed precision not for a fused optimizer.
            settings: dict[str, Any] = {"betas": self.betas, "fused": not model.automatic_optimization}
            optimizer = torch.optim.AdamW(parameters, lr=rate, weight_decay=self.weight_decay, **settings)
        return scheduled(model, optimizer, self.schedule or Schedule(), name)


def muon_groups(parameters: Iterable[Any]) -> list[dict[str, Any]]:
    """Return groups for Muon; those with a weight decay of their own, as codebooks and embeddings, are for AdamW."""
    groups = list(parameters)
    if not isinstance(groups[0], dict):
        groups = [{"params": groups}]
    return [{**group, "orthogonalize": "weight_decay" not in group} for group in groups]


@dataclass(frozen=True)
class GANOptimization(Optimization):
    """Optimizer settings of a generator and a discriminator.

    Args:
        kind: ``adam``, with decoupled weight decay (AdamW); ``muon``, for matrices and convolutions, with AdamW for
            the other parameters; or ``rmsprop``, without betas and decay.
        betas: Adam's decay rates.
        weight_decay: Decoupled weight decay.
        schedule: Learning-rate schedule, counted as ``global_step``; null is constant.
        clip: Largest gradient norm of the generator; null does not clip.
        disc_lr: Absolute learning rate of the discriminator. Default: that of the generator.
        disc_clip: Largest gradient norm of the discriminator; null does not clip.

    Example:
        >>> GANOptimization(disc_lr=1e-4).disc_lr
        0.0001
    """

    betas: tuple[Probability, Probability] = (0.5, 0.999)
    disc_lr: Positive | None = None
    disc_clip: Positive | None = None
