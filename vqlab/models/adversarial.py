"""The adversarial loss of models that reconstruct images: the discriminator, its losses and its optimizer step."""

from dataclasses import dataclass
from typing import Any, Literal

import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor, nn

from vqlab.errors import UserError
from vqlab.losses.adversarial import ADVERSARIAL, LeCam, adaptive_weight, linearized, r1_penalty
from vqlab.nn import Decoder, Discriminator, ImageFormat, PatchGAN
from vqlab.nn.distributed import world_size
from vqlab.training.steps import clip, collect, require_finite
from vqlab.validation import NonNegative, NonNegativeInt, Positive, check_fields

R1_EVERY = 16  # batches; the weight grows as the penalty becomes rarer (StyleGAN2, Karras et al. 2020)


@dataclass(frozen=True, eq=False)
class AdversarialSettings:
    """Settings of an :class:`AdversarialLoss`.

    Args:
        discriminator: Default: a ``PatchGAN``.
        loss: Pair of losses: ``hinge``, ``non_saturating``, ``wgan`` or ``lsgan``.
        disc_weight: Weight of the generator loss; 0 trains no discriminator.
        adaptive: Multiply ``disc_weight`` by the ratio of gradient norms at the decoder's last layer.
        disc_start: Step at which the generator loss is switched on.
        disc_warmup: Steps before ``disc_start`` in which only the discriminator is trained.
        lecam_weight: Weight of the LeCam regularization (Tseng et al. 2021).
        r1_weight: Weight of the gradient penalty at real images (Mescheder et al. 2018), taken every 16 batches.
        disc_lr: Learning rate of the discriminator, at most about 1e-3. Default: the autoencoder's.
        disc_clip: Largest gradient norm of the discriminator; null does not clip.
        alternate: Step the discriminator before the generator loss is computed. Accumulation needs false: after it.

    Example:
        >>> AdversarialSettings(disc_start=100, lecam_weight=0.01).loss
        'hinge'
    """

    discriminator: Discriminator | None = None
    loss: Literal["hinge", "non_saturating", "wgan", "lsgan"] = "hinge"
    disc_weight: NonNegative = 0.8
    adaptive: bool = True
    disc_start: NonNegativeInt = 5000
    disc_warmup: NonNegativeInt = 0
    lecam_weight: NonNegative = 0.0
    r1_weight: NonNegative = 0.0
    disc_lr: Positive | None = None
    disc_clip: Positive | None = None
    alternate: bool = True

    def __post_init__(self) -> None:
        check_fields(self)
        if self.disc_warmup > self.disc_start:
            raise UserError(f"disc_warmup must be at most disc_start={self.disc_start}, got {self.disc_warmup}")


class AdversarialLoss(nn.Module):
    """A discriminator of images (B, C, H, W) and their reconstructions, and the generator loss that follows from it.

    Raises:
        UserError: If the images are too small, ``adaptive`` has no last layer, or ``alternate`` meets accumulation.

    Example:
        >>> from vqlab.nn.autoencoders.small import SmallDecoder
        >>> adversarial = AdversarialLoss(AdversarialSettings(disc_start=0), SmallDecoder(), ImageFormat())
        >>> adversarial.is_active(step=0)
        True
    """

    def __init__(
        self, settings: AdversarialSettings, decoder: Decoder, images: ImageFormat, accumulate: int = 1
    ) -> None:
        super().__init__()
        if accumulate > 1 and settings.alternate:
            raise UserError("accumulate above 1 is not compatible with alternating updates: set alternate=false")
        if settings.adaptive and not hasattr(decoder, "head"):
            raise UserError(f"{type(decoder).__name__} has no head, which adaptive needs: set adaptive=false")
        self.discriminator: Discriminator = settings.discriminator or PatchGAN(in_channels=images.channels)
        with torch.no_grad():  # raises now, not at disc_start, if the images are too small
            self.discriminator.eval()(torch.zeros(1, *images.shape))
        self.discriminator.train()
        self.loss = ADVERSARIAL[settings.loss]
        self.lecam = LeCam() if settings.lecam_weight else None
        self.settings, self.accumulate = settings, accumulate

    def is_active(self, step: int) -> bool:
        """Whether the discriminator is trained at this step."""
        return step >= self.settings.disc_start - self.settings.disc_warmup

    def train_discriminator(
        self, x: Tensor, x_hat: Tensor, optimizer: torch.optim.Optimizer, batch_idx: int, step: int
    ) -> dict[str, Tensor]:
        """Accumulate the discriminator's gradients; step it if the networks alternate; return terms for the log."""
        if not self.is_active(step):
            return {}
        fake_logits, real_logits = self.discriminator(x_hat.detach()), self.discriminator(x)
        loss = self.loss.discriminator(real_logits, fake_logits)
        correct = torch.cat([(real_logits > 0).float().mean(1), (fake_logits < 0).float().mean(1)])
        terms = {"d_loss": loss.detach(), "d_acc": correct.mean()}
        terms |= {"logits_real": real_logits.detach().mean(), "logits_fake": fake_logits.detach().mean()}
        if self.lecam is not None:
            lecam = self.lecam(real_logits, fake_logits)
            self.lecam.update(real_logits.detach(), fake_logits.detach())
            loss, terms["lecam"] = loss + self.settings.lecam_weight * lecam, lecam.detach()
        if self.settings.r1_weight and step % R1_EVERY == 0:
            real = x.detach().requires_grad_()
            r1 = r1_penalty(real, self.discriminator(real))
            loss, terms["r1"] = loss + R1_EVERY * self.settings.r1_weight * r1, r1.detach()
        require_finite({"d_loss": loss}, batch_idx, step)
        collect(loss / self.accumulate, self.discriminator.parameters())
        if self.settings.alternate:
            self.step(optimizer)
        return terms

    def generator_loss(
        self, x_hat: Tensor, rec_loss: Tensor, decoder: Decoder, step: int
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the weighted generator loss, 0 before ``disc_start``, and terms; ``rec_loss`` is for the weight."""
        loss = self.zero()
        if step < self.settings.disc_start:
            return loss, {}
        g_loss = linearized(self.loss.generator(self.discriminator(x_hat)), x_hat)
        weight = torch.as_tensor(self.settings.disc_weight, device=x_hat.device)
        if self.settings.adaptive:
            head: Any = decoder.head
            weight = weight * adaptive_weight(rec_loss, g_loss, head[0].weight)
        return loss + weight * g_loss, {"g_loss": g_loss.detach(), "disc_weight": weight}

    def waits_for_step(self, step: int) -> bool:
        """Whether the discriminator steps together with the autoencoder."""
        return self.is_active(step) and not self.settings.alternate

    def step(self, optimizer: torch.optim.Optimizer) -> None:
        """Clip and step the discriminator; its gradients are kept for the log until the autoencoder steps."""
        clip(self.discriminator.parameters(), self.settings.disc_clip)
        optimizer.step()

    def configure_optimizer(self, model: Any) -> dict[str, Any]:
        """Return the discriminator's optimizer, with the ``model``'s settings and ``disc_lr``."""
        if 0 <= model.trainer.max_steps <= self.settings.disc_start:
            found = f"disc_start {self.settings.disc_start} lies beyond max_steps {model.trainer.max_steps}"
            rank_zero_warn(f"{found}, so the generator loss is never used: lower disc_start, or set disc_weight=0")
        parameters, lr = self.discriminator.parameters(), self.settings.disc_lr
        return model.optimization.optimizer(model, parameters, "discriminator", lr=lr)

    def zero(self) -> Tensor:
        """Return 0; under DDP it depends on the discriminator's weights, because DDP waits for every gradient."""
        if world_size() == 1:
            return next(self.discriminator.parameters()).new_zeros(())
        return 0 * torch.stack([p.sum() for p in self.discriminator.parameters()]).sum()
