"""VQ-GAN (Esser et al. 2021, arXiv:2012.09841): a VQ-VAE with a perceptual and an adversarial loss."""

from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from vqlab.losses.adversarial import linearized
from vqlab.losses.perceptual import Perceptual, build_perceptual
from vqlab.metrics import FrechetDistance
from vqlab.models.adversarial import AdversarialLoss, AdversarialSettings
from vqlab.models.model import Model
from vqlab.models.vq import autoencoder
from vqlab.models.vq.autoencoder import RECONSTRUCTION, RENAMED_KEYS, CodebookUpdates
from vqlab.nn import ConvDecoder, ConvEncoder, ImageFormat
from vqlab.nn.base import Decoder, Encoder, check_autoencoder
from vqlab.quantizers import Quantizer, VectorQuantizer
from vqlab.training import Optimization
from vqlab.training.batches import predict_codes
from vqlab.training.steps import clip, count_batch, require_finite, step_and_zero
from vqlab.validation import Count, NonNegative, Positive


class VQGAN(Model):
    """VQ-VAE with a perceptual loss and a patch discriminator.

    Autoencoder: reconstruction + perceptual_weight * LPIPS + quantizer loss + lambda * disc_weight * generator loss,
    with lambda = |grad_W reconstruction terms| / |grad_W generator loss| at the decoder's last layer W (paper, equation
    7) if ``adversarial.adaptive``, else 1. Discriminator: its own loss on x and x^. The networks alternate at each
    batch, the discriminator first, on one forward pass of the autoencoder for both. Shapes as for ``VQVAE``.

    Args:
        encoder: Default: a ``ConvEncoder``.
        decoder: Default: a ``ConvDecoder``.
        quantizer: Default: a ``VectorQuantizer``.
        reconstruction: ``l1``, ``l2`` or ``huber``.
        perceptual: Default: LPIPS on VGG features, whose weights are fetched once; not built at weight 0.
        perceptual_weight: Weight of LPIPS; 0 leaves it out.
        adversarial: Discriminator and its losses.
        lr: Absolute learning rate. Default without ``base_lr``: 2e-4.
        base_lr: Rate per image: lr = base_lr x batch_size x devices x nodes x accumulate. Give one of the two.
        optimization: Optimizer settings of both networks; ``clip`` is the autoencoder's.
        accumulate: Batches per optimizer step; above 1 only with ``adversarial.alternate=false``.
        compile: Compile the networks with ``torch.compile``.
        frechet: Frechet distance between images and reconstructions, logged as ``val/rfid_<net>``; null: none.
        images: Format of the images; the command line takes it from the data.

    Raises:
        UserError: As ``VQVAE``, and if the images are too small for the discriminator.

    Example:
        >>> model = VQGAN(perceptual_weight=0.0).eval()
        >>> x = torch.rand(2, 3, 32, 32) * 2 - 1
        >>> tuple(model.encode(x).shape), tuple(model.reconstruct(x).shape)
        ((2, 8, 8), (2, 3, 32, 32))
    """

    modality = "image"
    default_lr = 2e-4
    renamed_keys: ClassVar = RENAMED_KEYS | {
        "discriminator.": "adversarial.discriminator.",
        "lecam.": "adversarial.lecam.",
    }

    def __init__(
        self,
        encoder: Encoder | None = None,
        decoder: Decoder | None = None,
        quantizer: Quantizer | None = None,
        reconstruction: Literal["l2", "l1", "huber"] = "l1",
        perceptual: Perceptual | None = None,
        perceptual_weight: NonNegative = 1.0,
        adversarial: AdversarialSettings = AdversarialSettings(),
        lr: Positive | None = None,
        base_lr: Positive | None = None,
        optimization: Optimization = Optimization(betas=(0.5, 0.9)),
        accumulate: Count = 1,
        compile: bool = False,
        frechet: FrechetDistance | None = None,
        images: ImageFormat = ImageFormat(),
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.optimization, self.accumulate, self.compiled = optimization, accumulate, compile
        self.images, self.value_range, self.reconstruction = images, images.value_range, reconstruction
        self.encoder: Encoder = encoder or ConvEncoder(in_channels=images.channels)
        self.decoder: Decoder = decoder or ConvDecoder(out_channels=images.channels)
        self.quantizer: Quantizer = quantizer or VectorQuantizer()
        self.map_size = check_autoencoder(self.encoder, self.decoder, images.channels, images.size)
        self.quantizer.check_map(self.map_size)
        self.to_code = nn.Conv2d(self.encoder.out_channels, self.quantizer.embedding_dim, 1)
        self.from_code = nn.Conv2d(self.quantizer.embedding_dim, self.decoder.in_channels, 1)
        self.codebook = CodebookUpdates(self.quantizer)
        self.frechet = frechet
        if frechet is not None:
            frechet.check_shape(*images.shape)
        self.perceptual_weight = perceptual_weight
        self.perceptual = build_perceptual(perceptual, perceptual_weight, images.size)
        self.adversarial: AdversarialLoss | None = None
        if adversarial.disc_weight:
            self.adversarial = AdversarialLoss(adversarial, self.decoder, images, accumulate)

    forward = autoencoder.forward
    encode = autoencoder.encode
    decode = autoencoder.decode
    reconstruct = autoencoder.reconstruct
    code_counts = autoencoder.code_counts
    check_input = autoencoder.check_input
    evaluate = autoencoder.evaluate
    finish_evaluation = autoencoder.finish_evaluation
    predict_step = predict_codes
    example_images = autoencoder.example_images

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        """Update the discriminator, then the autoencoder."""
        x = batch["image"]
        self.quantizer.sample_index = batch.get("index")
        x_hat, code = self(x)
        x_hat = x_hat.to(x.dtype)  # from autocast's half precision
        rec_loss, terms = self.reconstruction_loss(x_hat, x)
        rec_loss = linearized(rec_loss, x_hat)  # one backward pass of LPIPS, for lambda and for the gradient
        loss = rec_loss + code.loss
        terms |= code.terms
        require_finite({"loss": loss, **terms}, batch_idx, self.global_step)

        total = loss
        if self.adversarial is not None:
            optimizer, step = self.trainer.optimizers[1], self.global_step
            terms |= self.adversarial.train_discriminator(x, x_hat, optimizer, batch_idx, step)
            g_loss, g_terms = self.adversarial.generator_loss(x_hat, rec_loss, self.decoder, step)
            total, terms = loss + g_loss, terms | g_terms
        self.manual_backward(total / self.accumulate)

        self.codebook.collect(code)
        self.codebook.log(self, loss, terms | {"psnr": autoencoder.training_psnr(self, x_hat, x)})
        self.step_optimizers()
        return loss.detach()

    def reconstruction_loss(self, x_hat: Tensor, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Return reconstruction loss + perceptual_weight * LPIPS, and terms for the log."""
        loss = RECONSTRUCTION[self.reconstruction](x_hat, x)
        terms = {"rec_loss": loss.detach()}
        if self.perceptual is not None:
            lpips = self.perceptual(self.value_range.signed(x_hat), self.value_range.signed(x)).mean()
            loss, terms[self.perceptual.name] = loss + self.perceptual_weight * lpips, lpips.detach()
        return loss, terms

    def step_optimizers(self) -> None:
        """Step the autoencoder, and a discriminator that does not alternate, once per ``accumulate`` batches."""
        self.optimizer_stepped = (self.global_step + 1) % self.accumulate == 0
        if self.optimizer_stepped:
            autoencoder, *discriminator = self.trainer.optimizers
            if self.adversarial is not None and self.adversarial.waits_for_step(self.global_step):
                self.adversarial.step(discriminator[0])
            step_and_zero(self, autoencoder)
            self.codebook.commit(self.quantizer, autoencoder)
        count_batch(self)

    def configure_optimizers(self) -> Any:
        optimizers = [self.optimization.optimizer(self, autoencoder.parameter_groups(self), "autoencoder")]
        if self.adversarial is not None:
            optimizers.append(self.adversarial.configure_optimizer(self))
        return optimizers

    def setup(self, stage: str) -> None:
        super().setup(stage)
        if stage != "fit":
            return
        self.to(memory_format=torch.channels_last)  # faster on tensor cores
        if self.compiled:
            self.encoder.compile()
            getattr(self.decoder, "body", self.decoder).compile()
            if self.adversarial is not None and not self.adversarial.settings.r1_weight:
                self.adversarial.discriminator.compile()  # R1 needs second derivatives, which compiled graphs lack

    def on_before_optimizer_step(self, optimizer: Any) -> None:
        clip([p for group in optimizer.param_groups for p in group["params"]], self.optimization.clip)
