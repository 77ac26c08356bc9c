"""FontGAN: translate a glyph of one font to another font (zi2zi, after pix2pix: Isola et al. 2017)."""

from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from vqlab.errors import UserError
from vqlab.losses.adversarial import ADVERSARIAL, balance_factor, is_ahead
from vqlab.metrics import GlyphDistance
from vqlab.models.model import Model, evaluating
from vqlab.nn import ValueRange
from vqlab.nn.gan.discriminators import GlyphDiscriminator, check_fit
from vqlab.nn.unet import UNet, check_styles
from vqlab.training import GANOptimization
from vqlab.training.batches import passed_on
from vqlab.training.steps import clip, collect, count_batch, require_finite, step_and_zero
from vqlab.validation import Count, NonNegative, NonNegativeInt, Positive

LOSSES = {"bce": "non_saturating", "hinge": "hinge", "lsgan": "lsgan"}


class FontGAN(Model):
    """A U-Net that draws a source font's glyph in the style of a target font, and a discriminator of such pairs.

    Generator, with B^ = G(A, k) for the source glyph A, the target B and its style k: disc_weight * adversarial loss +
    l1_weight * |B^ - B| + constancy_weight * (E(A) - E(B^))^2, E the generator's encoder down to its code +
    category_weight * cross-entropy of the style of B^. Discriminator: its adversarial loss on [A, B] and [A, B^] +
    category_weight * the cross-entropy of the style, each half. The weights are zi2zi's. The networks alternate at each
    batch, the discriminator first. Evaluation: how much closer held-out glyphs are to the target than the source is.

    Args:
        generator: Default: a ``UNet``.
        discriminator: Default: a ``GlyphDiscriminator``.
        adversarial: ``bce`` (non-saturating), ``hinge`` or ``lsgan``.
        disc_weight: Weight of the generator's adversarial loss; 0 trains no discriminator.
        disc_start: Step at which discriminator and adversarial loss are switched on.
        balance: ``none``; ``adaptive`` weight, low for a confident discriminator; ``skip`` updates above 90 % accuracy.
        spectral_norm: Spectral normalization of the default discriminator; for another one set its ``norm``.
        l1_weight: Weight of the mean absolute difference, on the scale from -1 to 1.
        constancy_weight: Weight of the squared difference of codes, which needs a second pass of the encoder.
        category_weight: Weight of the style's cross-entropy, which is 0 with one style.
        lr: Absolute learning rate. Default without ``base_lr``: 1e-3.
        base_lr: Rate per image: lr = base_lr x batch_size x devices x nodes. Give one of the two.
        optimization: Optimizer settings.
        num_styles: Number of target fonts; the command line takes it from the data.
        image_size: S; the command line takes it from the data. Glyphs are (B, 1, S, S) from -1, ink, to 1, paper.

    Example:
        >>> model = FontGAN(image_size=32)
        >>> tuple(model.translate(torch.ones(2, 1, 32, 32), 0).shape)
        (2, 1, 32, 32)
    """

    modality = "font"
    default_lr = 1e-3
    health_hints: ClassVar = {
        "discriminator_too_strong": "set --model.balance=adaptive or --model.spectral_norm=true, or lower "
        "--model.optimization.disc_lr or --model.disc_weight",
        "discriminator_too_weak": "raise --model.optimization.disc_lr, or set --model.balance=none",
        "mode_collapse": "lower --model.disc_weight, or raise --model.l1_weight",
    }

    def __init__(
        self,
        generator: UNet | None = None,
        discriminator: GlyphDiscriminator | None = None,
        adversarial: Literal["bce", "hinge", "lsgan"] = "bce",
        disc_weight: NonNegative = 1.0,
        disc_start: NonNegativeInt = 0,
        balance: Literal["none", "adaptive", "skip"] = "none",
        spectral_norm: bool = False,
        l1_weight: NonNegative = 100.0,
        constancy_weight: NonNegative = 15.0,
        category_weight: NonNegative = 1.0,
        lr: Positive | None = None,
        base_lr: Positive | None = None,
        optimization: GANOptimization = GANOptimization(),
        num_styles: Count = 1,
        image_size: Count = 64,
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.weights = {"disc": disc_weight, "l1": l1_weight}
        self.weights |= {"constancy": constancy_weight, "category": category_weight}
        if spectral_norm and discriminator is not None:
            raise UserError("spectral_norm needs the default discriminator: set discriminator.norm=spectral instead")
        self.adversarial_losses, self.balance, self.disc_start = ADVERSARIAL[LOSSES[adversarial]], balance, disc_start
        self.optimization, self.value_range = optimization, ValueRange("signed")
        self.num_styles, self.image_size = num_styles, image_size
        self.generator: UNet = generator or UNet(image_size, num_styles)
        self.discriminator: GlyphDiscriminator | None = None
        if disc_weight:
            norm: Any = "spectral" if spectral_norm else "group"
            self.discriminator = discriminator or GlyphDiscriminator(num_styles, norm=norm)
        check_fit(self.generator, self.discriminator, num_styles, image_size)
        self.glyphs = GlyphDistance()

    def forward(self, source: Tensor, style: Tensor) -> Tensor:
        """Return glyphs (B, 1, S, S) in [-1, 1]; styles as in :class:`~vqlab.nn.unet.UNet`."""
        return self.generator(source, style)

    @torch.no_grad()
    def translate(self, images: Tensor, style: int | Tensor) -> Tensor:
        """Draw glyphs (B, 1, S, S) in a ``style``: one for all, (B,) int64, or weights (B, num_styles) of a mixture."""
        size = self.image_size
        if images.ndim != 4 or images.shape[1:] != (1, size, size):
            got = tuple(images.shape)
            raise UserError(f"glyphs must be (B, 1, {size}, {size}), got {got}: set --data.image_size={size}")
        style = torch.as_tensor(style, device=images.device)
        if style.ndim < 2:
            check_styles(style, self.num_styles)
            style = style.expand(len(images))
        with evaluating(self):
            return self(images, style)

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        """Update the discriminator, then the generator."""
        source, target, style = batch["source"], batch["target"], batch["style"]
        if batch_idx == 0:
            check_styles(style, self.num_styles)
        features = self.generator.encode(source)
        fake = self.generator.decode(features, style).to(source.dtype)  # from autocast's half precision

        terms: dict[str, Tensor] = {}
        weights: dict[str, Any] = dict(self.weights)
        if self.disc_active:
            weights["disc"], terms = self.train_discriminator(source, target, fake.detach(), style, batch_idx)
        losses = self.generator_losses(source, target, fake, features[-1], style)
        require_finite(losses, batch_idx, self.global_step)
        loss = torch.stack([weights[name] * value for name, value in losses.items()]).sum()
        collect(loss, self.generator.parameters())
        step_and_zero(self, self.trainer.optimizers[0])
        terms |= {"g_loss" if name == "disc" else name: value for name, value in losses.items()}
        self.log_terms(terms, prog_bar="l1")
        count_batch(self)
        return loss.detach()

    @property
    def disc_active(self) -> bool:
        """Whether the discriminator is trained at this step."""
        return self.discriminator is not None and self.global_step >= self.disc_start

    def train_discriminator(
        self, source: Tensor, target: Tensor, fake: Tensor, style: Tensor, batch_idx: int
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Update the discriminator; return the weight of the generator's adversarial loss, and terms for the log."""
        discriminator: Any = self.discriminator
        real_out, fake_out = discriminator(source, target), discriminator(source, fake)
        adversarial = self.adversarial_losses.discriminator(real_out.real_logits, fake_out.real_logits)
        category = (F.cross_entropy(real_out.styles, style) + F.cross_entropy(fake_out.styles, style)) / 2
        loss = adversarial + self.weights["category"] * category
        require_finite({"d_loss": loss}, batch_idx, self.global_step)
        real_acc = (real_out.real_logits > 0).float().mean()
        fake_acc = (fake_out.real_logits < 0).float().mean()
        waits = self.balance == "skip" and is_ahead(real_acc, fake_acc)
        if not waits:
            collect(loss, discriminator.parameters())
            clip(discriminator.parameters(), self.optimization.disc_clip)
            self.trainer.optimizers[1].step()  # the gradients are kept for the log until the generator steps
        weight = loss.new_tensor(self.weights["disc"])
        if self.balance == "adaptive":
            weight = weight * balance_factor(real_out.real_logits, fake_out.real_logits)
        return weight, {
            "d_loss": loss.detach(),
            "d_acc": (real_acc + fake_acc) / 2,
            "d_waits": loss.new_tensor(float(waits)),
            "reals_passed": real_acc,
            "fakes_caught": fake_acc,
            "p_real": real_out.real_logits.detach().sigmoid().mean(),
            "p_fake": fake_out.real_logits.detach().sigmoid().mean(),
            "disc_weight": weight,
        }

    def generator_losses(
        self, source: Tensor, target: Tensor, fake: Tensor, code: Tensor, style: Tensor
    ) -> dict[str, Tensor]:
        """Return the unweighted terms of the generator's loss, without expensive terms of weight 0."""
        losses = {"l1": F.l1_loss(fake, target)}
        if self.disc_active and self.discriminator is not None:
            output = self.discriminator(source, fake)
            losses["disc"] = self.adversarial_losses.generator(output.real_logits)
            losses["category"] = F.cross_entropy(output.styles, style)
        if self.weights["constancy"]:
            losses["constancy"] = F.mse_loss(self.generator.encode(fake)[-1], code)
        return losses

    def configure_optimizers(self) -> Any:
        settings = self.optimization
        optimizers = [settings.optimizer(self, self.generator.parameters(), "generator")]
        if self.discriminator is not None:
            parameters = self.discriminator.parameters()
            optimizers.append(settings.optimizer(self, parameters, "discriminator", lr=settings.disc_lr))
        return optimizers

    def setup(self, stage: str) -> None:
        super().setup(stage)
        if stage == "fit":
            self.to(memory_format=torch.channels_last)

    def on_before_optimizer_step(self, optimizer: Any) -> None:
        clip(self.generator.parameters(), self.optimization.clip)

    def predict_step(self, batch: dict[str, Tensor], batch_idx: int) -> dict[str, Tensor]:
        """Return ``source`` and ``glyph`` (B, S, S) uint8 (0 is ink), with the batch's ``char`` and ``style``."""
        rows = {"source": batch["source"], "glyph": self.translate(batch["source"], batch["style"])}
        images = {name: self.value_range.to_uint8(glyphs)[:, 0] for name, glyphs in rows.items()}
        return images | passed_on(batch, "char", "style")

    def example_images(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return ``source``, ``generated`` and ``target`` glyphs in [0, 1], (B, 1, S, S) each."""
        rows = {"source": batch["source"], "generated": self.translate(batch["source"], batch["style"])}
        return {name: self.value_range.decode(glyphs) for name, glyphs in (rows | {"target": batch["target"]}).items()}

    def evaluate(self, batch: dict[str, Tensor], stage: str) -> None:
        """Update the glyph metrics, and log the discriminator's probabilities."""
        source, target, style = batch["source"], batch["target"], batch["style"]
        fake = self(source, style).to(source.dtype)
        decode = self.value_range.decode
        self.glyphs.update(decode(fake), decode(target), decode(source), batch["density"], style)
        if self.discriminator is not None:
            logits = {"p_real": self.discriminator(source, target), "p_fake": self.discriminator(source, fake)}
            metrics = {name: output.real_logits.sigmoid().mean() for name, output in logits.items()}
            self.log_means(stage, metrics, len(source))

    def finish_evaluation(self, stage: str) -> None:
        metrics = self.glyphs.compute()
        self.glyphs.reset()
        metrics["loss"] = metrics["l1"]  # selects best.ckpt
        for name, value in metrics.items():
            self.log(f"{stage}/{name}", value.float(), prog_bar=name in ("l1_gain", "ssim_gain"), sync_dist=True)
