"""VQ-GAN (Esser et al. 2021, arXiv:2012.09841): a VQ-VAE with a perceptual and an adversarial loss."""

from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from vqlab.losses.adaptive_weight import linearized
from vqlab.losses.perceptual import Perceptual
from vqlab.metrics.images.frechet import FrechetDistance
from vqlab.models.adversarial import AdversarialLoss, AdversarialSettings
from vqlab.models.model import Model
from vqlab.models.vq.codebook import CodebookUpdates
from vqlab.models.vq.metrics import ReconstructionMetrics
from vqlab.models.vq.vqvae import RECONSTRUCTION
from vqlab.nn.autoencoders.conv import ConvDecoder, ConvEncoder
from vqlab.nn.base import Decoder, Encoder, check_autoencoder
from vqlab.nn.codes import as_codes, check_code_shape
from vqlab.nn.image_format import ImageFormat
from vqlab.nn.precision import like_weights
from vqlab.quantizers.base import Quantizer, QuantizerOutput
from vqlab.quantizers.identity import IdentityQuantizer
from vqlab.quantizers.vector import VectorQuantizer
from vqlab.training.batches import passed_on
from vqlab.training.finite import require_finite
from vqlab.training.learning_rate import check_lr
from vqlab.training.lightning_fixes import is_log_step
from vqlab.training.manual import count_batch, step_and_zero
from vqlab.training.optimization import Optimization
from vqlab.validation import Count, NonNegative, Positive


class VQGAN(Model):
    """VQ-VAE with a perceptual loss and a patch discriminator.

    Autoencoder: reconstruction + perceptual_weight * LPIPS + quantizer loss + lambda * disc_weight * generator loss,
    with lambda = |grad_W reconstruction terms| / |grad_W generator loss| at the decoder's last layer W (paper, equation
    7) if ``adversarial.adaptive``, else 1. Discriminator: its own loss on x and x^.

    The networks alternate at each batch, the discriminator first, on one forward pass of the autoencoder for both.

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
        accumulate: Batches per optimizer step, without ``adversarial.alternate``; lambda is each batch's own.
        compile: Compile the networks with ``torch.compile``.
        frechet: As in ``VQVAE``.
        images: Format of the images; the command line takes it from the data.

    Shape:
        As for ``VQVAE``.

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
    renamed_keys: ClassVar = {
        "train_usage.": "codebook.train_usage.",
        "revived": "codebook.revived",
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
        check_lr(lr, base_lr)
        self.lr, self.base_lr, self.optimization, self.accumulate = lr, base_lr, optimization, accumulate
        self.reconstruction, self.compiled = reconstruction, compile
        self.images, self.value_range = images, images.value_range
        self.encoder: Encoder = encoder or ConvEncoder(in_channels=images.channels)
        self.decoder: Decoder = decoder or ConvDecoder(out_channels=images.channels)
        self.quantizer: Quantizer = quantizer or VectorQuantizer()
        self.map_size = check_autoencoder(self.encoder, self.decoder, images.channels, images.size)
        self.quantizer.check_map(self.map_size)
        self.to_code = nn.Conv2d(self.encoder.out_channels, self.quantizer.embedding_dim, 1)
        self.from_code = nn.Conv2d(self.quantizer.embedding_dim, self.decoder.in_channels, 1)
        self.codebook = CodebookUpdates(self.quantizer)
        self.metrics = ReconstructionMetrics(self.quantizer, images, self.encoder.downsampling, frechet)
        self.perceptual_weight = perceptual_weight
        self.perceptual: Perceptual | None = None
        if perceptual_weight:
            self.perceptual = perceptual or Perceptual()
            self.perceptual.check_size(images.size, images.size)
        self.adversarial: AdversarialLoss | None = None
        if adversarial.disc_weight:
            self.adversarial = AdversarialLoss(adversarial, self.decoder, images, accumulate)

    # Public methods

    def forward(self, x: Tensor) -> tuple[Tensor, QuantizerOutput]:
        """Return the reconstruction (B, C, H, W) and the quantizer's output."""
        self.images.check(x)
        code = self.quantizer(self.to_code(self.encoder(x)))
        return self.decoder(self.from_code(code.quantized)), code

    def encode(self, x: Tensor) -> Tensor:
        """Images (B, C, H, W) to indices (B, h, w)."""
        self.images.check(x)
        return self.quantizer.encode(self.to_code(self.encoder(x)))

    def decode(self, indices: Tensor) -> Tensor:
        """Indices (B, h, w), integers of any kind, to images (B, C, H, W).

        Raises:
            UserError: If they are flat, are no integers, or one is no code of the quantizer.
        """
        indices = as_codes(indices, self.from_code.weight.device)
        check_code_shape(indices, self.quantizer.code_shape(self.map_size))
        return self.decoder(self.from_code(like_weights(self.quantizer.decode(indices), self.from_code)))

    def reconstruct(self, x: Tensor) -> Tensor:
        """Images (B, C, H, W) through their codes and back."""
        return self(x)[0] if isinstance(self.quantizer, IdentityQuantizer) else self.decode(self.encode(x))

    # Training

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        """One batch: the discriminator's update, then the autoencoder's."""
        x = batch["image"]
        self.quantizer.sample_index = batch.get("index")
        x_hat, code = self(x)
        x_hat = x_hat.to(x.dtype)  # from autocast's half precision
        rec_loss, terms = self.reconstruction_loss(x_hat, x)
        rec_loss = linearized(rec_loss, x_hat)  # LPIPS is passed back once, for lambda and for the gradient step
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
        self.log_training(loss, terms, x_hat, x)
        self.step_optimizers()
        return loss.detach()

    def reconstruction_loss(self, x_hat: Tensor, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Return reconstruction + perceptual_weight * LPIPS, and its terms."""
        loss = RECONSTRUCTION[self.reconstruction](x_hat, x)
        terms = {"rec_loss": loss.detach()}
        if self.perceptual is not None:
            lpips = self.perceptual(self.value_range.signed(x_hat), self.value_range.signed(x)).mean()
            loss, terms[self.perceptual.name] = loss + self.perceptual_weight * lpips, lpips.detach()
        return loss, terms

    def step_optimizers(self) -> None:
        """Step the networks that wait for it, once per ``accumulate`` batches, and count the batch."""
        self.optimizer_stepped = (self.global_step + 1) % self.accumulate == 0
        if self.optimizer_stepped:
            autoencoder, *discriminator = self.trainer.optimizers
            if self.adversarial is not None and self.adversarial.waits_for_step(self.global_step):
                self.adversarial.step(discriminator[0])
            step_and_zero(self, autoencoder)
            self.codebook.commit(self.quantizer, autoencoder)
        count_batch(self)

    def configure_optimizers(self) -> Any:
        """One optimizer for the autoencoder, without weight decay on a codebook, and one for the discriminator."""
        nets = nn.ModuleList([self.encoder, self.to_code, self.from_code, self.decoder])
        groups: list[dict[str, Any]] = [{"params": list(nets.parameters())}]
        if codebook := list(self.quantizer.parameters()):
            groups.append({"params": codebook, "weight_decay": 0.0})
        optimizers = [self.optimization.optimizer(self, groups, "autoencoder")]
        if self.adversarial is not None:
            optimizers.append(self.adversarial.configure_optimizer(self))
        return optimizers

    def prepare_data(self) -> None:
        """Fetch what LPIPS and the Frechet distance need, once per machine, before anything of the run is written."""
        for part in (self.perceptual, None if self.trainer.predicting else self.metrics.frechet):
            if part is not None:
                part.load()

    def setup(self, stage: str) -> None:
        """Check the Trainer's settings, compile."""
        super().setup(stage)
        if stage != "fit":
            return
        self.to(memory_format=torch.channels_last)  # what tensor cores want; on a CPU it makes no difference
        if self.adversarial is not None:
            self.adversarial.warn_if_unused(self.trainer.max_steps)
        if self.compiled:
            self.encoder.compile()
            getattr(self.decoder, "body", self.decoder).compile()
            if self.adversarial is not None:
                self.adversarial.compile_discriminator()

    def on_before_optimizer_step(self, optimizer: Any) -> None:
        """Clip the autoencoder's gradients, after they were logged."""
        self.optimization.clip_gradients(p for group in optimizer.param_groups for p in group["params"])

    @torch.no_grad()
    def log_training(self, loss: Tensor, terms: dict[str, Tensor], x_hat: Tensor, x: Tensor) -> None:
        """Log the terms of a batch, and the use of the codes since the last line of the log."""
        terms["psnr"] = self.metrics.psnr(x_hat.float(), x)
        self.log_dict({f"train/{name}": value.detach() for name, value in terms.items()})
        self.log("train/loss", loss.detach(), prog_bar=True)
        if is_log_step(self.trainer, self.global_step + 1):
            codes = self.codebook.metrics()
            self.log("train/perplexity", codes.pop("perplexity"), prog_bar=True)
            self.log_dict({f"train/{name}": value for name, value in codes.items()})

    # Evaluation

    def evaluate(self, batch: dict[str, Tensor], stage: str) -> None:
        """Log loss, PSNR, SSIM and LPIPS of a batch."""
        x = batch["image"]
        x_hat, code = self(x)
        rec_loss = RECONSTRUCTION[self.reconstruction](x_hat, x)
        losses = {"loss": rec_loss + code.loss, "rec_loss": rec_loss}
        if self.perceptual is not None:
            x_hat_signed, x_signed = self.value_range.signed(x_hat).clamp(-1, 1), self.value_range.signed(x)
            losses[self.perceptual.name] = self.perceptual(x_hat_signed, x_signed).mean()
        x_hat = x_hat.float()
        self.log_means(stage, losses | self.metrics.update(x_hat, x, code.indices), len(x))
        self.log_means(stage, {"psnr": self.metrics.psnr(x_hat, x)}, len(x), prog_bar=True)

    def finish_evaluation(self, stage: str) -> None:
        """Log codebook utilization and rFID of the whole set."""
        self.log_dict({f"{stage}/{name}": value for name, value in self.metrics.compute().items()}, sync_dist=True)

    def predict_step(self, batch: dict[str, Tensor], batch_idx: int) -> dict[str, Tensor]:
        """Return ``indices`` (B, h, w) with the batch's ``label`` and ``index``."""
        return {"indices": self.encode(batch["image"]), **passed_on(batch, "label", "index")}

    @torch.no_grad()
    def example_images(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return ``input`` and ``reconstruction`` in [0, 1], both (B, C, H, W)."""
        x = batch["image"]
        return {"input": self.value_range.decode(x), "reconstruction": self.value_range.decode(self.reconstruct(x))}

    def code_counts(self) -> Tensor:
        """Return how often each code was used in this evaluation, (num_codebooks * K,) int64, over all ranks."""
        return self.metrics.code_counts()
