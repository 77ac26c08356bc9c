"""How the weights of a model are stepped: optimizer, schedule and clipping, as one set of arguments for all models."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

import torch

from vqlab.training.learning_rate import Schedule, configured_rate, scheduled
from vqlab.training.manual import clip
from vqlab.validation import NonNegative, Positive, Probability, check_fields


@dataclass(frozen=True)
class Optimization:
    """Optimizer settings besides the learning rate, which is an argument of the model.

    Args:
        kind: ``adam``, with decoupled weight decay (AdamW); or ``rmsprop``, without betas and decay.
        betas: Adam's decay rates.
        weight_decay: Decoupled weight decay; never on codebooks.
        schedule: Learning-rate schedule; it counts batches, as ``global_step`` does. Null is constant.
        clip: Largest gradient norm; null does not clip. Not for models that the Trainer steps (VQVAE, S4DVQ,
            CodePrior): there it is the Trainer's ``gradient_clip_val``.

    Raises:
        UserError: If an argument is out of range.

    Example:
        >>> Optimization(betas=(0.5, 0.9), schedule=Schedule("cosine")).schedule.factor(50, training_steps=100)
        0.5
    """

    kind: Literal["adam", "rmsprop"] = "adam"
    betas: tuple[Probability, Probability] = (0.9, 0.999)
    weight_decay: NonNegative = 0.0
    schedule: Schedule | None = None
    clip: Positive | None = None

    def __post_init__(self) -> None:
        check_fields(self)
        object.__setattr__(self, "betas", tuple(self.betas))  # a checkpoint holds a list

    def optimizer(self, model: Any, parameters: Iterable[Any], name: str, lr: float | None = None) -> dict[str, Any]:
        """Return an optimizer with its schedule, as ``configure_optimizers`` hands it to Lightning.

        A group of parameters may have an ``lr`` of its own, and with it a ``name``; the others have the absolute rate
        ``lr`` or that of the model, which is logged as ``lr/<name>``.
        """
        base_lr = model.base_lr if lr is None else None
        rate = configured_rate(model, model.lr if lr is None else lr, base_lr, model.default_lr, name)
        stepped: torch.optim.Optimizer
        if self.kind == "rmsprop":
            stepped = torch.optim.RMSprop(parameters, lr=rate)
        else:
            stepped = torch.optim.AdamW(parameters, lr=rate, betas=self.betas, weight_decay=self.weight_decay)
        return scheduled(model, stepped, self.schedule or Schedule(), name)

    def clip_gradients(self, parameters: Iterable[torch.Tensor]) -> None:
        """Clip the joint gradient norm of ``parameters``."""
        clip(list(parameters), self.clip)


@dataclass(frozen=True)
class GANOptimization(Optimization):
    """Optimizer settings of two networks that train against each other; those of :class:`Optimization` are for both.

    Args:
        kind: As in ``Optimization``.
        betas: As in ``Optimization``.
        weight_decay: As in ``Optimization``.
        schedule: As in ``Optimization``.
        clip: Largest gradient norm of the generator; null does not clip.
        disc_lr: Absolute learning rate of the discriminator; null takes the generator's.
        disc_clip: Largest gradient norm of the discriminator; null does not clip.

    Raises:
        UserError: If an argument is out of range.

    Example:
        >>> GANOptimization(disc_lr=1e-4).disc_lr
        0.0001
    """

    betas: tuple[Probability, Probability] = (0.5, 0.999)
    disc_lr: Positive | None = None
    disc_clip: Positive | None = None

    def clip_discriminator(self, parameters: Iterable[torch.Tensor]) -> None:
        """Clip the joint gradient norm of the discriminator's ``parameters``."""
        clip(list(parameters), self.disc_clip)
