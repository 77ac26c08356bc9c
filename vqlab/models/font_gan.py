"""FontGAN: a glyph of one font into the same glyph of another (zi2zi, after pix2pix: Isola et al. 2017)."""

from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from vqlab.errors import UserError
from vqlab.losses.adversarial import ADVERSARIAL
from vqlab.losses.glyph import eased, is_ahead, total_variation
from vqlab.losses.perceptual import Perceptual
from vqlab.metrics.images.glyph_distance import GlyphDistance
from vqlab.models.model import Model
from vqlab.nn.gan.glyph_discriminator import GlyphDiscriminator, check_fit
from vqlab.nn.unet import UNet, check_styles
from vqlab.nn.value_range import ValueRange
from vqlab.serialization import from_config
from vqlab.training.batches import passed_on
from vqlab.training.checkpoint import save_init_args
from vqlab.training.finite import require_finite
from vqlab.training.learning_rate import adam, check_lr, keep_configured_lr, rmsprop, with_own_rate
from vqlab.training.log_interval import is_log_step
from vqlab.training.manual import clip, collect, count_batch, refuse_unsound, step_and_zero
from vqlab.training.schedules import Schedule
from vqlab.validation import check_choice, check_clips, check_weight

DEFAULT_LR = 1e-3
GAMES = {"bce": "non_saturating", "hinge": "hinge", "lsgan": "lsgan"}


class FontGAN(Model):
    """A U-Net that draws a source font's glyph in the style of a target font, and a discriminator of such pairs.

    Generator, with B^ = G(A, k) for the source glyph A, the target B and its style k: disc_weight * adversarial loss +
    l1_weight * |B^ - B| + constancy_weight * (E(A) - E(B^))^2, E the generator's encoder down to its code +
    category_weight * cross-entropy of the style told from B^ + the optional terms. Discriminator: its side of the game
    on [A, B] and [A, B^] + category_weight * the cross-entropy of the style, each half. The weights are zi2zi's. The
    players take turns at each batch, the discriminator first; ``global_step`` counts batches.

    A low generator loss is no merit: it is relative to a discriminator that moves. Evaluation therefore asks how much
    nearer held-out glyphs come to the target than the source is (:class:`~vqlab.metrics.GlyphDistance`).

    For fine-tuning at a tenth of the rate, resume with ``--ckpt_path`` and a lower ``lr``, or let a schedule of kind
    ``step`` with gamma 0.1 and final_factor 0.1 come to the tenth at ``decay_steps``.

    Args:
        generator: Null takes a ``UNet`` with its defaults.
        discriminator: Null takes a ``GlyphDiscriminator`` with its defaults.
        adversarial: ``bce`` (non-saturating), ``hinge`` or ``lsgan``.
        disc_weight: Weight of the generator's adversarial loss; 0 trains no discriminator.
        disc_start: Batch from which the discriminator plays; before it the generator has the other terms alone.
        balance: ``none``; ``adaptive``, the generator feels less of a discriminator that is sure of everything, or
            blind (:func:`~vqlab.losses.glyph.eased`); ``skip``, the discriminator does not learn from a batch of which
            it has more than 90 percent of both sides right.
        spectral_norm: Of the discriminator that null takes; another has its own ``norm``.
        l1_weight: Weight of the mean absolute difference, on the scale from -1 to 1.
        constancy_weight: Weight of the squared difference of codes, which costs another pass of the encoder.
        category_weight: Weight of the style's cross-entropy, which is 0 where there is one style.
        tv_weight: Weight of the total variation of what is generated, against specks.
        edge_weight: Weight of the total variation of its difference to the target.
        perceptual_weight: Weight of LPIPS; 0 leaves it out.
        perceptual: Null takes LPIPS on VGG features, whose weights are fetched once; not built at weight 0.
        optimizer: ``adam`` or ``rmsprop``, of both players.
        lr: Absolute learning rate; without ``lr`` and ``base_lr`` it is 1e-3.
        base_lr: Rate per image: lr = base_lr x batch_size x devices x nodes. Give one of the two.
        disc_lr: Absolute learning rate of the discriminator; null takes the generator's.
        betas: Adam's decay rates.
        schedule: Learning-rate schedule of both players; null is constant.
        clip_g: Largest gradient norm of the generator; null does not clip.
        clip_d: Largest gradient norm of the discriminator.
        num_styles: Number of target fonts; the command line links it to the data.
        image_size: Height and width of the glyphs; linked to the data.

    Shape:
        source, target (B, 1, image_size, image_size) from -1, ink, to 1, paper; style (B,) int64 in [0, num_styles).

    Raises:
        UserError: If an argument is out of range, or a network does not fit the glyphs.

    Example:
        >>> model = FontGAN(image_size=32)
        >>> tuple(model.translate(torch.ones(2, 1, 32, 32), 0).shape)
        (2, 1, 32, 32)
    """

    modality = "font"
    health_hints: ClassVar = {  # what Health advises
        "discriminator_too_strong": "set --model.balance=adaptive or --model.spectral_norm=true, or lower "
        "--model.disc_lr or --model.disc_weight",
        "discriminator_too_weak": "raise --model.disc_lr, or set --model.balance=none",
        "mode_collapse": "lower --model.disc_weight, or raise --model.l1_weight",
    }

    def __init__(
        self,
        generator: UNet | None = None,
        discriminator: GlyphDiscriminator | None = None,
        adversarial: Literal["bce", "hinge", "lsgan"] = "bce",
        disc_weight: float = 1.0,
        disc_start: int = 0,
        balance: Literal["none", "adaptive", "skip"] = "none",
        spectral_norm: bool = False,
        l1_weight: float = 100.0,
        constancy_weight: float = 15.0,
        category_weight: float = 1.0,
        tv_weight: float = 0.0,
        edge_weight: float = 0.0,
        perceptual_weight: float = 0.0,
        perceptual: Perceptual | None = None,
        optimizer: Literal["adam", "rmsprop"] = "adam",
        lr: float | None = None,
        base_lr: float | None = None,
        disc_lr: float | None = None,
        betas: tuple[float, float] = (0.5, 0.999),
        schedule: Schedule | None = None,
        clip_g: float | None = None,
        clip_d: float | None = None,
        num_styles: int = 1,
        image_size: int = 64,
    ) -> None:
        super().__init__()
        save_init_args(self)
        self.automatic_optimization = False
        check_lr(lr, base_lr)
        check_lr(disc_lr, None, "disc_lr")
        check_choice("adversarial", adversarial, tuple(GAMES))
        check_choice("balance", balance, ("none", "adaptive", "skip"))
        check_choice("optimizer", optimizer, ("adam", "rmsprop"))
        check_clips(clip_g=clip_g, clip_d=clip_d)
        self.weights = {"disc": disc_weight, "l1": l1_weight, "constancy": constancy_weight, "tv": tv_weight}
        self.weights |= {"category": category_weight, "edge": edge_weight, "perceptual": perceptual_weight}
        for name, weight in self.weights.items():
            check_weight(f"{name}_weight", weight, f"set --model.{name}_weight=0 to leave it out")
        if spectral_norm and discriminator is not None:
            raise UserError(
                "spectral_norm is of the discriminator that null takes, and one is given: set "
                "--model.discriminator.norm=spectral and --model.spectral_norm=false"
            )
        if disc_start < 0:
            raise UserError(f"disc_start counts batches, got {disc_start}: set --model.disc_start=0")
        self.game, self.balance, self.disc_start = ADVERSARIAL[GAMES[adversarial]], balance, disc_start
        self.optimizer, self.lr, self.base_lr, self.disc_lr = optimizer, lr, base_lr, disc_lr
        self.betas, self.schedule = (betas[0], betas[1]), from_config(schedule) or Schedule()
        self.clip_g, self.clip_d = clip_g, clip_d
        self.num_styles, self.image_size, self.value_range = num_styles, image_size, ValueRange("signed")

        self.generator: UNet = from_config(generator) or UNet(image_size, num_styles)
        self.discriminator: GlyphDiscriminator | None = None
        if disc_weight:
            norm: Any = "spectral" if spectral_norm else "group"
            self.discriminator = from_config(discriminator) or GlyphDiscriminator(num_styles, norm=norm)
        check_fit(self.generator, self.discriminator, num_styles, image_size)
        self.perceptual: Perceptual | None = None
        if perceptual_weight:
            self.perceptual = from_config(perceptual) or Perceptual()
            self.perceptual.check_size(image_size, image_size)
        self.glyphs = GlyphDistance()

    # What a user calls

    def forward(self, source: Tensor, style: Tensor) -> Tensor:
        """Return glyphs (B, 1, S, S) in [-1, 1]; styles as in :class:`~vqlab.nn.unet.UNet`."""
        return self.generator(source, style)

    @torch.no_grad()
    def translate(self, images: Tensor, style: int | Tensor) -> Tensor:
        """Draw glyphs of the source font in the style of a target font.

        Args:
            images: (B, 1, S, S) from -1, ink, to 1, paper.
            style: One for all, or (B,) int64, or (B, num_styles) shares of the styles to mix.

        Returns:
            Glyphs of the same shape in [-1, 1].

        Raises:
            UserError: If the images have another shape, or there is no such style.
        """
        size = self.image_size
        if images.ndim != 4 or images.shape[1:] != (1, size, size):
            raise UserError(
                f"glyphs must be (B, 1, {size}, {size}), got {tuple(images.shape)}: set --data.image_size={size}"
            )
        style = torch.as_tensor(style, device=images.device)
        if style.ndim < 2:
            check_styles(style, self.num_styles)
            style = style.expand(len(images))
        was_training = self.training
        self.eval()  # without dropout, and with batch norm's running statistics
        glyphs = self(images, style)
        self.train(was_training)
        return glyphs

    # Training

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        """One batch: the discriminator's turn, then the generator's."""
        source, target, style = batch["source"], batch["target"], batch["style"]
        if batch_idx == 0:
            check_styles(style, self.num_styles)
        features = self.generator.encode(source)
        fake = self.generator.decode(features, style).to(source.dtype)  # of autocast's half precision

        judge = self.discriminator if self.global_step >= self.disc_start else None
        terms: dict[str, Tensor] = {}
        weights: dict[str, Any] = dict(self.weights)
        if judge is not None:
            weights["disc"], terms = self._train_discriminator(judge, source, target, fake.detach(), style, batch_idx)
        losses = self._generator_losses(judge, source, target, fake, features[-1], style)
        require_finite(losses, batch_idx, self.global_step)
        loss = torch.stack([weights[name] * value for name, value in losses.items()]).sum()
        collect(loss, self.generator.parameters())
        step_and_zero(self, self.trainer.optimizers[0])
        if is_log_step(self.trainer, self.global_step + 1):
            terms |= {"g_loss" if name == "disc" else name: value.detach() for name, value in losses.items()}
            self.log("train/l1", terms.pop("l1"), prog_bar=True)
            self.log_dict({f"train/{name}": value for name, value in terms.items()})
        count_batch(self)
        return loss.detach()

    def _train_discriminator(
        self, judge: GlyphDiscriminator, source: Tensor, target: Tensor, fake: Tensor, style: Tensor, batch_idx: int
    ) -> tuple[Tensor | float, dict[str, Tensor]]:
        """Take the discriminator's turn; return how much of it the generator is to feel, and the terms of the log."""
        real, made = judge(source, target), judge(source, fake)
        game = self.game.discriminator(real.real_logits, made.real_logits)
        category = (F.cross_entropy(real.styles, style) + F.cross_entropy(made.styles, style)) / 2
        loss = game + self.weights["category"] * category
        require_finite({"d_loss": loss}, batch_idx, self.global_step)
        passed, caught = (real.real_logits > 0).float().mean(), (made.real_logits < 0).float().mean()
        waits = self.balance == "skip" and is_ahead(passed, caught)
        if not waits:
            collect(loss, judge.parameters())
            clip(judge.parameters(), self.clip_d)
            self.trainer.optimizers[1].step()  # the gradients stay until the generator steps, for their log
        weight = self.weights["disc"]
        felt = (
            weight * eased(real.real_logits, made.real_logits)
            if self.balance == "adaptive"
            else loss.new_tensor(weight)
        )
        return felt, {
            "d_loss": loss.detach(),
            "d_acc": (passed + caught) / 2,
            "d_waits": loss.new_tensor(float(waits)),
            "reals_passed": passed,
            "fakes_caught": caught,
            "p_real": real.real_logits.detach().sigmoid().mean(),
            "p_fake": made.real_logits.detach().sigmoid().mean(),
            "disc_weight": felt,
        }

    def _generator_losses(
        self,
        judge: GlyphDiscriminator | None,
        source: Tensor,
        target: Tensor,
        fake: Tensor,
        code: Tensor,
        style: Tensor,
    ) -> dict[str, Tensor]:
        """Return the terms of the generator's loss, unweighted; those that would cost time at weight 0 are left out."""
        losses = {"l1": F.l1_loss(fake, target)}
        if judge is not None:
            judged = judge(source, fake)
            losses |= {
                "disc": self.game.generator(judged.real_logits),
                "category": F.cross_entropy(judged.styles, style),
            }
        if self.weights["constancy"]:
            losses["constancy"] = F.mse_loss(self.generator.encode(fake)[-1], code)
        if self.weights["tv"]:
            losses["tv"] = total_variation(fake)
        if self.weights["edge"]:
            losses["edge"] = total_variation(fake - target)
        if self.perceptual is not None:
            losses["perceptual"] = self.perceptual(fake, target).mean()
        return losses

    def configure_optimizers(self) -> Any:
        """One optimizer for each player, the generator first."""
        build: Any = adam if self.optimizer == "adam" else rmsprop
        settings: Any = {"lr": self.lr, "base_lr": self.base_lr, "default_lr": DEFAULT_LR, "schedule": self.schedule}
        if self.optimizer == "adam":
            settings |= {"betas": self.betas, "weight_decay": 0.0}
        players = [build(self, self.generator.parameters(), name="generator", **settings)]
        if self.discriminator is not None:
            own = with_own_rate(settings, self.disc_lr)
            players.append(build(self, self.discriminator.parameters(), name="discriminator", **own))
        return players

    def prepare_data(self) -> None:
        """Fetch what LPIPS needs, once per machine, before anything of the run is written."""
        if self.perceptual is not None:
            self.perceptual.load()

    def setup(self, stage: str) -> None:
        """Check the Trainer's settings."""
        if stage == "fit":
            refuse_unsound(self.trainer)
            self.to(memory_format=torch.channels_last)

    def on_train_start(self) -> None:
        """Resume with the learning rate that is configured now."""
        keep_configured_lr(self)

    def on_before_optimizer_step(self, optimizer: Any) -> None:
        """Clip the generator's gradients, after they were logged."""
        clip(self.generator.parameters(), self.clip_g)

    # Evaluation

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        """Log ``val/...``."""
        self._evaluate(batch, "val")

    def test_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        """Log ``test/...``."""
        self._evaluate(batch, "test")

    def on_validation_epoch_end(self) -> None:
        """Log the figures of all held-out glyphs."""
        self._log_whole_set("val")

    def on_test_epoch_end(self) -> None:
        """Log the figures of all test glyphs."""
        self._log_whole_set("test")

    def predict_step(self, batch: dict[str, Tensor], batch_idx: int) -> dict[str, Tensor]:
        """Return ``source`` and ``glyph`` (B, S, S) uint8, 0 being ink, with the batch's ``char`` and ``style``."""
        rows = {"source": batch["source"], "glyph": self.translate(batch["source"], batch["style"])}
        images = {name: self.value_range.to_uint8(glyphs)[:, 0] for name, glyphs in rows.items()}
        return images | passed_on(batch, "char", "style")

    def pictures(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return glyphs in [0, 1] to look at: ``source``, ``generated`` and ``target``, all (B, 1, S, S)."""
        rows = {"source": batch["source"], "generated": self.translate(batch["source"], batch["style"])}
        return {name: self.value_range.decode(glyphs) for name, glyphs in (rows | {"target": batch["target"]}).items()}

    def _evaluate(self, batch: dict[str, Tensor], stage: str) -> None:
        source, target, style = batch["source"], batch["target"], batch["style"]
        made = self(source, style).to(source.dtype)
        rows = [self.value_range.decode(glyphs) for glyphs in (made, target, source)]
        self.glyphs.update(rows[0], rows[1], rows[2], batch["density"], style)
        figures = {}
        if self.discriminator is not None:
            for name, glyphs in (("p_real", target), ("p_fake", made)):
                figures[name] = self.discriminator(source, glyphs).real_logits.sigmoid().mean()
        if self.perceptual is not None:
            for name, glyphs in (("", made), ("_identity", source)):
                figures[f"{self.perceptual.name}{name}"] = self.perceptual(glyphs, target).mean()
        named = {f"{stage}/{name}": value for name, value in figures.items()}
        self.log_dict(named, on_epoch=True, sync_dist=True, batch_size=len(source))

    def _log_whole_set(self, stage: str) -> None:
        figures = self.glyphs.compute()
        self.glyphs.reset()
        figures["loss"] = figures["l1"]  # what best.ckpt goes by, unless it is told to go by the gain: the same order
        for name, value in figures.items():
            self.log(f"{stage}/{name}", value.float(), prog_bar=name in ("l1_gain", "ssim_gain"), sync_dist=True)
