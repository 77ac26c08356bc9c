"""VQ-GAN (Esser et al. 2021, arXiv:2012.09841): a VQ-VAE whose reconstructions a discriminator must take for real."""

from typing import Any, Literal

import torch
from torch import Tensor

from vqlab.errors import UserError
from vqlab.losses.adversarial import ADVERSARIAL, LeCam
from vqlab.losses.perceptual import Perceptual
from vqlab.metrics.images.frechet import FrechetDistance
from vqlab.models.adversarial import Adversary, build_discriminator
from vqlab.models.vq.base import RECONSTRUCTION
from vqlab.models.vq.vqvae import VQVAE
from vqlab.nn.autoencoders.conv import ConvDecoder, ConvEncoder
from vqlab.nn.base import Decoder, Encoder
from vqlab.nn.gan.patchgan import Discriminator
from vqlab.nn.value_range import ValueRange
from vqlab.quantizers.base import Quantizer
from vqlab.serialization import from_config
from vqlab.training.finite import require_finite
from vqlab.training.learning_rate import adam, check_lr
from vqlab.training.manual import clip, count_batch, refuse_unsound, step_and_zero
from vqlab.training.schedules import Schedule
from vqlab.validation import check_choice, check_clips, check_weight

DEFAULT_LR = 2e-4


class VQGAN(Adversary, VQVAE):
    """VQ-VAE with a perceptual distance and a patch discriminator.

    Autoencoder: reconstruction + perceptual_weight * LPIPS + quantizer loss + lambda * disc_weight * generator loss,
    with lambda = |grad_W reconstruction terms| / |grad_W generator loss| at the decoder's last layer W (paper, equation
    7) if ``adaptive``, else 1. Discriminator: its own loss on x and x^.

    The players take turns at each batch, the discriminator first, so that the autoencoder feels it as it is by then.
    The autoencoder runs once for both: the gradient at the reconstruction is put together first, and passed back once.

    Args:
        encoder: Null takes a ``ConvEncoder`` with its defaults.
        decoder: Null takes a ``ConvDecoder`` with its defaults.
        quantizer: Null takes a ``VectorQuantizer`` with its defaults.
        discriminator: Null takes a ``PatchGAN`` with its defaults.
        perceptual: Null takes LPIPS on VGG features, whose weights are fetched once; not built at weight 0.
        reconstruction: ``l1``, ``l2`` or ``huber``.
        perceptual_weight: Weight of LPIPS; 0 leaves it out.
        adversarial: ``hinge``, ``non_saturating``, ``wgan`` or ``lsgan``.
        disc_weight: Weight of the generator's adversarial loss; 0 trains no discriminator.
        adaptive: Multiply it by lambda, above.
        disc_start: Batch from which the autoencoder feels the discriminator ...
        disc_warmup: ... which has trained alone for so many batches by then.
        lecam_weight: Weight of LeCAM, which keeps the logits from running apart (Tseng et al. 2021).
        r1_weight: Weight of the gradient penalty at real images (Mescheder et al. 2018), taken every 16 batches.
        lr: Absolute learning rate; without ``lr`` and ``base_lr`` it is 2e-4.
        base_lr: Rate per image: lr = base_lr x batch_size x devices x nodes x accumulate. Give one of the two.
        disc_lr: Absolute learning rate of the discriminator; null takes the autoencoder's. Above 1e-3, which a small
            autoencoder stands, a discriminator soon tells nothing apart.
        betas: Adam's decay rates, of both players.
        weight_decay: Decoupled weight decay of both players; none on the codebook.
        schedule: Learning-rate schedule of both players; null is constant. It counts batches, as ``global_step`` does.
        clip_g: Largest gradient norm of the autoencoder; null does not clip.
        clip_d: Largest gradient norm of the discriminator.
        alternate: Step the discriminator before the autoencoder feels it; else both learn at the same weights, which
            accumulation needs and which gave a worse rFID.
        accumulate: Batches per step of the optimizers, without ``alternate``; lambda is each batch's own.
        compile: Compile the networks with ``torch.compile``.
        frechet: As in ``VQVAE``.
        channels: Channels of the images; the command line links it to the data.
        image_size: Height and width of the images; linked to the data.
        value_range: What the numbers of an image mean; linked to the data.

    Shape:
        As for ``VQVAE``.

    Raises:
        UserError: As ``VQVAE``, and if a weight is negative or a count out of range.

    Example:
        >>> model = VQGAN(perceptual_weight=0.0).eval()
        >>> x = torch.rand(2, 3, 32, 32) * 2 - 1
        >>> tuple(model.encode(x).shape), tuple(model.reconstruct(x).shape)
        ((2, 8, 8), (2, 3, 32, 32))
    """

    def __init__(
        self,
        encoder: Encoder | None = None,
        decoder: Decoder | None = None,
        quantizer: Quantizer | None = None,
        discriminator: Discriminator | None = None,
        perceptual: Perceptual | None = None,
        reconstruction: Literal["l2", "l1", "huber"] = "l1",
        perceptual_weight: float = 1.0,
        adversarial: Literal["hinge", "non_saturating", "wgan", "lsgan"] = "hinge",
        disc_weight: float = 0.8,
        adaptive: bool = True,
        disc_start: int = 5000,
        disc_warmup: int = 0,
        lecam_weight: float = 0.0,
        r1_weight: float = 0.0,
        lr: float | None = None,
        base_lr: float | None = None,
        disc_lr: float | None = None,
        betas: tuple[float, float] = (0.5, 0.9),
        weight_decay: float = 0.0,
        schedule: Schedule | None = None,
        clip_g: float | None = None,
        clip_d: float | None = None,
        alternate: bool = True,
        accumulate: int = 1,
        compile: bool = False,
        frechet: FrechetDistance | None = None,
        channels: int = 3,
        image_size: int = 32,
        value_range: ValueRange | Literal["unit", "signed"] = "signed",
    ) -> None:
        super().__init__(
            from_config(encoder) or ConvEncoder(in_channels=channels),
            from_config(decoder) or ConvDecoder(out_channels=channels),
            quantizer,
            reconstruction=reconstruction,
            lr=lr,
            base_lr=base_lr,
            betas=betas,
            weight_decay=weight_decay,
            schedule=schedule,
            frechet=frechet,
            channels=channels,
            image_size=image_size,
            value_range=value_range,
        )
        self.automatic_optimization = False
        weights = {"perceptual_weight": perceptual_weight, "disc_weight": disc_weight}
        for name, weight in {**weights, "lecam_weight": lecam_weight, "r1_weight": r1_weight}.items():
            check_weight(name, weight, f"set --model.{name}=0 to leave it out")
        check_clips(clip_g=clip_g, clip_d=clip_d)
        check_choice("adversarial", adversarial, tuple(ADVERSARIAL))
        check_lr(disc_lr, None, "disc_lr")
        if accumulate < 1:
            raise UserError(f"accumulate must be at least 1 batch, got {accumulate}: set --model.accumulate=1")
        if accumulate > 1 and alternate and disc_weight:
            raise UserError(
                f"with accumulate {accumulate} the discriminator steps after earlier batches felt it, so the players "
                "cannot take turns: set --model.alternate=false"
            )
        if not 0 <= disc_warmup <= disc_start:
            raise UserError(
                f"disc_start {disc_start} and disc_warmup {disc_warmup} count batches, and the warm-up ends at the "
                "start: set 0 <= --model.disc_warmup <= --model.disc_start"
            )
        self.perceptual: Perceptual | None = None
        if perceptual_weight:
            self.perceptual = from_config(perceptual) or Perceptual()
            self.perceptual.check_size(image_size, image_size)
        self.discriminator: Discriminator | None = None
        if disc_weight:
            self.discriminator = build_discriminator(discriminator, self.decoder, adaptive, channels, image_size)
        self.players, self.adaptive = ADVERSARIAL[adversarial], adaptive
        self.perceptual_weight, self.disc_weight = perceptual_weight, disc_weight
        self.disc_start, self.disc_warmup = disc_start, disc_warmup
        self.lecam = LeCam() if lecam_weight and disc_weight else None
        self.lecam_weight, self.r1_weight = lecam_weight, r1_weight
        self.disc_lr = disc_lr
        self.clip_g, self.clip_d, self.compiled = clip_g, clip_d, compile
        self.alternate, self.accumulate = alternate, accumulate

    # Training

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        """One batch for both players."""
        x = batch["image"]
        self.quantizer.sample_index = batch.get("index")
        x_hat, code = self(x)
        x_hat = x_hat.to(x.dtype)  # of autocast's half precision
        fake = x_hat.detach().requires_grad_()  # where the losses' gradients meet
        self.optimizer_stepped = (self.global_step + 1) % self.accumulate == 0

        distance, terms = self._distance(fake, x)
        (gradient,) = torch.autograd.grad(distance, fake)
        loss, terms = (distance + code.loss).detach(), terms | code.terms
        require_finite({"loss": loss, **terms}, batch_idx, self.global_step)
        pull, d_terms = self.contest(x, x_hat, fake, gradient, batch_idx)
        terms |= d_terms
        gradient = gradient if pull is None else gradient + pull
        # Passed back: the code's own loss, and what came together at the reconstruction.
        self.manual_backward(((x_hat * gradient).sum() + code.loss + self.untouched()) / self.accumulate)
        self._collect(code)
        self._log_training(loss, terms, fake.detach(), x)
        if self.optimizer_stepped:
            if self.plays and not self.alternate:
                self.step_discriminator()
            autoencoder = self.trainer.optimizers[0]
            step_and_zero(self, autoencoder)
            self._commit(autoencoder)
        count_batch(self)
        return loss

    def _distance(self, x_hat: Tensor, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Return what the autoencoder minimises at the reconstruction besides the generator loss, and its terms."""
        distance = RECONSTRUCTION[self.reconstruction](x_hat, x)
        terms = {"rec_loss": distance.detach()}
        if self.perceptual is not None:
            lpips = self.perceptual(self.value_range.signed(x_hat), self.value_range.signed(x)).mean()
            distance = distance + self.perceptual_weight * lpips
            terms[self.perceptual.name] = lpips.detach()
        return distance, terms

    def configure_optimizers(self) -> Any:
        """Adam for each player, the autoencoder first."""
        settings: Any = {
            "lr": self.lr,
            "base_lr": self.base_lr,
            "default_lr": DEFAULT_LR,
            "betas": self.betas,
            "weight_decay": self.weight_decay,
            "schedule": self.schedule,
        }
        players = [adam(self, self._parameter_groups(), name="autoencoder", **settings)]
        return players if self.discriminator is None else [*players, self.discriminator_optimizer(**settings)]

    def prepare_data(self) -> None:
        """Fetch what LPIPS needs, once per machine, before anything of the run is written."""
        super().prepare_data()
        if self.perceptual is not None:
            self.perceptual.load()

    def setup(self, stage: str) -> None:
        """Check the Trainer's settings, compile."""
        if stage != "fit":
            return
        refuse_unsound(self.trainer)
        self.to(memory_format=torch.channels_last)  # what tensor cores want; on a CPU it makes no difference
        self.warn_if_idle()
        if self.compiled:
            self.encoder.compile()
            getattr(self.decoder, "body", self.decoder).compile()
            if self.discriminator is not None and not self.r1_weight:  # no compiled graph has second derivatives
                self.discriminator.compile()

    def on_before_optimizer_step(self, optimizer: Any) -> None:
        """Clip the autoencoder's gradients, after they were logged."""
        clip([p for group in self._parameter_groups() for p in group["params"]], self.clip_g)

    # Evaluation

    def _evaluate(self, batch: dict[str, Tensor], stage: str) -> Tensor:
        x_hat = super()._evaluate(batch, stage)
        if self.perceptual is not None:
            x = batch["image"]
            lpips = self.perceptual(self.value_range.signed(x_hat).clamp(-1, 1), self.value_range.signed(x)).mean()
            self.log(f"{stage}/{self.perceptual.name}", lpips, on_epoch=True, sync_dist=True, batch_size=len(x))
        return x_hat
