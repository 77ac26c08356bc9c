"""What the training steps of models with categorical codes share: settings, optimizers, and the end of a step."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from vqlab.errors import UserError
from vqlab.losses.adaptive_weight import linearized
from vqlab.metrics.images.frechet import FrechetDistance
from vqlab.models.adversarial import AdversarialLoss, AdversarialSettings
from vqlab.models.categorical.latent import CategoricalLatent
from vqlab.nn.distributed import all_sum, world_size
from vqlab.nn.likelihood import Gaussian
from vqlab.quantizers.sampling import step_seed, uniform_by_sample
from vqlab.training.learning_rate import check_lr, configured_rate
from vqlab.training.manual import count_batch, step_and_zero
from vqlab.training.optimization import Optimization
from vqlab.validation import Count, Positive, check_fields


class LossOutput(NamedTuple):
    """The loss of a batch, and what goes with it.

    Attributes:
        loss: Scalar in nats per image, with gradients to all parts.
        mse: Mean squared error of the decoded codes (scalar), in the units of what is modelled.
        codes: Codes (B, P) of the batch, to be counted.
        terms: Scalars for the log.
    """

    loss: Tensor
    mse: Tensor
    codes: Tensor
    terms: dict[str, Tensor]


@dataclass(frozen=True)
class ProposalOptimization(Optimization):
    """Optimizer settings of p and q; those of ``Optimization`` are for both.

    Args:
        kind: As in ``Optimization``.
        betas: As in ``Optimization``.
        weight_decay: As in ``Optimization``; none on embeddings, prior and sigma.
        schedule: As in ``Optimization``.
        clip: Largest gradient norm of p, and of q; null does not clip.
        proposal_lr: Absolute learning rate of q. Default without ``proposal_base_lr``: that of p.
        proposal_base_lr: Rate per image of q.

    Raises:
        UserError: If an argument is out of range, or both rates of q are given.

    Example:
        >>> ProposalOptimization(proposal_lr=1e-4).proposal_lr
        0.0001
    """

    proposal_lr: Positive | None = None
    proposal_base_lr: Positive | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_lr(self.proposal_lr, self.proposal_base_lr)


@dataclass(frozen=True, eq=False)
class EvaluationSettings:
    """How a model with categorical codes is evaluated.

    Args:
        nll_samples: Draws per image for ``val/nll``.
        test_nll_samples: Draws per image for ``test/nll``.
        frechet: As in ``VQVAE``.

    Raises:
        UserError: If an argument is out of range.

    Example:
        >>> EvaluationSettings(nll_samples=16).test_nll_samples
        1000
    """

    nll_samples: Count = 64
    test_nll_samples: Count = 1000
    frechet: FrechetDistance | None = None

    def __post_init__(self) -> None:
        check_fields(self)


def build_adversarial(
    settings: AdversarialSettings, latent: CategoricalLatent, accumulate: int
) -> AdversarialLoss | None:
    """Return the adversarial loss at decoded codes, None at weight 0."""
    if not settings.disc_weight:
        return None
    if not isinstance(latent.likelihood, Gaussian):
        raise UserError(
            "disc_weight must be 0 without a Gaussian likelihood: a discriminator trivially separates Bernoulli means "
            "from binary images"
        )
    return AdversarialLoss(settings, latent.decoder, latent.images, accumulate)


def adversarial_loss(model: Any, x: Tensor, codes: Tensor, batch_idx: int) -> tuple[Tensor | float, dict[str, Tensor]]:
    """Train the discriminator on what ``codes`` (B, P) decode to; return the weighted generator loss, and terms."""
    adversarial, latent, step = model.adversarial, model.latent, model.global_step
    if adversarial is None:
        return 0.0, {}
    if not adversarial.is_active(step):
        return adversarial.zero(), {}
    x_hat = latent.output(codes).float()
    terms = adversarial.train_discriminator(x, x_hat, model.trainer.optimizers[1], batch_idx, step)
    rec_loss = linearized(-latent.log_likelihood(x, x_hat).mean(), x_hat)
    dims = x[0].numel()  # the weight is bounded for losses that are means over an image's numbers, not sums
    g_loss, g_terms = adversarial.generator_loss(x_hat, rec_loss / dims, latent.decoder, step)
    return dims * g_loss, terms | g_terms


def uniform_numbers(model: Any, x: Tensor, count: int, index: Tensor | None) -> Tensor:
    """Return (B, count) numbers in (0, 1), by seed, step and image where the ``index`` of the images is known."""
    if index is None:
        return torch.rand(len(x), count, device=x.device, dtype=torch.float64)
    step = torch.tensor(model.global_step, device=x.device)
    return uniform_by_sample(index, count, step_seed(model.seed, step)).view(len(x), count)


def step_optimizers(model: Any, codes: Tensor, mse: Tensor) -> None:
    """Step p and q once per ``accumulate`` batches, split codes, update sigma by the ``mse``, and count the batch."""
    latent: CategoricalLatent = model.latent
    optimizer, *discriminator = model.trainer.optimizers
    model.optimizer_stepped = (model.global_step + 1) % model.accumulate == 0
    if model.splitter is not None:
        model.splitter.count(codes)
    if model.optimizer_stepped:
        if model.adversarial is not None and model.adversarial.waits_for_step(model.global_step):
            model.adversarial.step(discriminator[0])
        step_and_zero(model, optimizer)
        if model.splitter is not None:
            model.splitter.split(latent.quantizer, optimizer)
    latent.likelihood.update(all_sum(mse) / world_size())
    count_batch(model)


def configure_optimizers(model: Any) -> list[dict[str, Any]]:
    """Return one optimizer for p and q, which share no weight, with a rate for each, and a discriminator's."""
    settings: ProposalOptimization = model.optimization
    lr, base_lr = settings.proposal_lr, settings.proposal_base_lr
    if lr is None and base_lr is None:
        lr, base_lr = model.lr, model.base_lr
    rate = configured_rate(model, lr, base_lr, model.default_lr, "proposal")
    networks, tables, proposal = model.latent.parameter_groups()
    groups = [
        {"params": networks},
        {"params": tables, "weight_decay": 0.0},
        {"params": proposal, "lr": rate, "name": "proposal"},
    ]
    optimizers = [settings.optimizer(model, groups, "joint")]
    return optimizers if model.adversarial is None else [*optimizers, model.adversarial.configure_optimizer(model)]


def clip_gradients(model: Any) -> None:
    """Clip the gradients of p and those of q."""
    networks, tables, proposal = model.latent.parameter_groups()
    model.optimization.clip_gradients([*networks, *tables])
    model.optimization.clip_gradients(proposal)
