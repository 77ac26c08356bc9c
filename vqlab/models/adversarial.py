"""The discriminator's side of a model whose reconstructions it must take for real."""

from typing import Any

import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from vqlab.errors import UserError
from vqlab.losses.adaptive_weight import adaptive_weight
from vqlab.losses.adversarial import Adversarial, LeCam, r1_penalty
from vqlab.nn.base import Decoder
from vqlab.nn.distributed import world_size
from vqlab.nn.gan.patchgan import Discriminator, PatchGAN
from vqlab.serialization import from_config
from vqlab.training.finite import require_finite
from vqlab.training.learning_rate import discriminator_adam
from vqlab.training.manual import clip, collect

R1_EVERY = 16  # batches; the weight grows as the penalty becomes rarer (StyleGAN2, Karras et al. 2020)


class Adversary:
    """The turns of the discriminator, in a LightningModule that has these parts; the discriminator may be missing."""

    decoder: Decoder
    discriminator: Discriminator | None
    players: Adversarial
    lecam: LeCam | None
    lecam_weight: float = 0.0
    r1_weight: float = 0.0
    adaptive: bool = True
    alternate: bool = True
    accumulate: int
    disc_weight: float
    disc_start: int
    disc_warmup: int = 0
    disc_lr: float | None
    clip_d: float | None = None
    global_step: int
    trainer: Any

    @property
    def plays(self) -> bool:
        """Whether the discriminator learns from this batch."""
        return self.discriminator is not None and self.global_step >= self.disc_start - self.disc_warmup

    def warn_if_idle(self) -> None:
        """Warn of a training that ends before the discriminator is felt."""
        if self.discriminator is not None and 0 <= self.trainer.max_steps <= self.disc_start:
            rank_zero_warn(
                f"disc_start {self.disc_start} lies beyond max_steps {self.trainer.max_steps}, so no discriminator is "
                "felt: lower --model.disc_start, or set --model.disc_weight=0"
            )

    def discriminator_optimizer(self, **settings: Any) -> Any:
        """Return Adam for the discriminator: the ``settings`` of the other player's, but a rate of its own."""
        assert self.discriminator is not None
        return discriminator_adam(self, self.discriminator.parameters(), self.disc_lr, **settings)  # type: ignore[arg-type]

    def contest(
        self, x: Tensor, x_hat: Tensor, fake: Tensor, gradient: Tensor, batch_idx: int
    ) -> tuple[Tensor | None, dict[str, Tensor]]:
        """Let the discriminator learn from a batch, if it plays, and say which way it pulls the reconstruction.

        Args:
            x: Images (B, C, H, W).
            x_hat: Their reconstruction, attached to the decoder.
            fake: The same, a leaf of its own.
            gradient: Of all other losses at the reconstruction, (B, C, H, W): the adaptive weight's measure.
            batch_idx: The batch, for messages.

        Returns:
            The weighted gradient of the generator's loss at ``fake``, None where it is not felt; terms for the log.
        """
        if not self.plays:
            return None, {}
        assert self.discriminator is not None
        d_loss, terms = self._discriminator_loss(x, fake.detach())
        require_finite({"d_loss": d_loss}, batch_idx, self.global_step)
        # DDP averages the gradients of the other pass alone.
        collect(d_loss / self.accumulate, self.discriminator.parameters())
        if self.alternate:
            self.step_discriminator()
        if self.global_step < self.disc_start:
            return None, terms
        push, terms["g_loss"] = self._push(fake)
        terms["disc_weight"] = self._weight(x_hat, gradient, push)
        return terms["disc_weight"] * push, terms

    def untouched(self) -> Tensor | float:
        """Return a zero that depends on the discriminator's weights: DDP waits for the gradient of every weight."""
        if self.discriminator is None or world_size() == 1:
            return 0.0
        return 0 * sum(p.sum() for p in self.discriminator.parameters())

    def step_discriminator(self) -> None:
        """Step the discriminator by the gradients collected."""
        assert self.discriminator is not None
        clip(self.discriminator.parameters(), self.clip_d)
        self.trainer.optimizers[1].step()  # the gradients stay until the autoencoder steps, for their log

    def _discriminator_loss(self, x: Tensor, fake: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the discriminator's loss on x and x^, and its terms."""
        assert self.discriminator is not None
        fake_logits, real_logits = self.discriminator(fake), self.discriminator(x)
        d_loss = self.players.discriminator(real_logits, fake_logits)
        right = torch.cat([(real_logits > 0).float().mean(1), (fake_logits < 0).float().mean(1)])
        terms = {
            "d_loss": d_loss.detach(),
            "d_acc": right.mean(),
            "logits_real": real_logits.detach().mean(),
            "logits_fake": fake_logits.detach().mean(),
        }
        if self.lecam is not None:
            lecam = self.lecam(real_logits, fake_logits)
            self.lecam.update(real_logits.detach(), fake_logits.detach())
            d_loss, terms["lecam"] = d_loss + self.lecam_weight * lecam, lecam.detach()
        if self.r1_weight and self.global_step % R1_EVERY == 0:
            real = x.detach().requires_grad_()
            r1 = r1_penalty(real, self.discriminator(real))
            d_loss, terms["r1"] = d_loss + R1_EVERY * self.r1_weight * r1, r1.detach()
        return d_loss, terms

    def _push(self, fake: Tensor) -> tuple[Tensor, Tensor]:
        """Return the generator loss's gradient (B, C, H, W) at ``fake``, and the loss."""
        assert self.discriminator is not None
        g_loss = self.players.generator(self.discriminator(fake))
        return torch.autograd.grad(g_loss, fake)[0], g_loss.detach()

    def _weight(self, x_hat: Tensor, gradient: Tensor, push: Tensor) -> Tensor:
        if not self.adaptive:
            return torch.as_tensor(self.disc_weight, device=x_hat.device)
        last: Any = self.decoder.head
        return self.disc_weight * adaptive_weight(x_hat, last[0].weight, gradient, push)


def build_discriminator(
    discriminator: Discriminator | None, decoder: Decoder, adaptive: bool, channels: int, image_size: int
) -> Discriminator:
    """Return the discriminator, null taking a ``PatchGAN``.

    Raises:
        UserError: If the images are too small for it, or the adaptive weight lacks a last layer.
    """
    discriminator = from_config(discriminator) or PatchGAN(in_channels=channels)
    with torch.no_grad():  # it says now, not at disc_start, if the images are too small for it
        discriminator.eval()(torch.zeros(1, channels, image_size, image_size))
    discriminator.train()
    if adaptive and not hasattr(decoder, "head"):
        raise UserError(
            f"the adaptive weight needs a decoder with a head, {type(decoder).__name__} has none: "
            "see vqlab.Decoder, or set --model.adaptive=false"
        )
    return discriminator
