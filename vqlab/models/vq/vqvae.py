"""VQ-VAE (van den Oord et al. 2017, arXiv:1711.00937): an autoencoder with a discrete code in its middle."""

from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vqlab.metrics.images.frechet import FrechetDistance
from vqlab.models.model import Model
from vqlab.models.vq.codebook import CodebookUpdates
from vqlab.models.vq.metrics import ReconstructionMetrics
from vqlab.nn.autoencoders.small import SmallDecoder, SmallEncoder
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
from vqlab.training.optimization import Optimization
from vqlab.validation import Positive

RECONSTRUCTION = {"l2": F.mse_loss, "l1": F.l1_loss, "huber": F.smooth_l1_loss}


class VQVAE(Model):
    """Encoder, quantizer, decoder, trained on the reconstruction and the quantizer's own loss.

    loss = reconstruction(x^, x) + quantizer loss (paper, equation 3). 1x1 convolutions fit the encoder to the quantizer
    and the quantizer to the decoder, so any quantizer goes with any network. Drawing new images needs a prior over the
    codes, which is a model of its own: ``CodePrior``.

    Args:
        encoder: Network from images to features. Default: a ``SmallEncoder``, the paper's.
        decoder: Network from features to images. Default: a ``SmallDecoder``, the paper's.
        quantizer: Default: a ``VectorQuantizer``.
        reconstruction: ``l2``, ``l1`` or ``huber``, averaged over all numbers of the batch.
        lr: Absolute learning rate. Default without ``base_lr``: 3e-4.
        base_lr: Rate per image: lr = base_lr x batch_size x devices x nodes x accumulation. Give one of the two.
        optimization: Optimizer settings.
        frechet: Frechet distance between images and reconstructions in evaluation, logged as ``val/rfid_<net>``; null
            computes none.
        images: Format of the images; the command line takes it from the data.

    Shape:
        images (B, C, H, W) in the value range of ``images``; indices (B, h, w) int64, h = w = H / downsampling; behind
        these, or instead, the axes that the quantizer's indices have.

    Raises:
        UserError: If both rates are given, the image size is not divisible, or the channels of the parts differ.

    Example:
        >>> from vqlab.quantizers.fsq import FSQ
        >>> model = VQVAE(quantizer=FSQ([8, 5, 5, 5])).eval()
        >>> x = torch.rand(2, 3, 32, 32) * 2 - 1
        >>> codes = model.encode(x)
        >>> tuple(codes.shape), tuple(model.decode(codes).shape), torch.equal(model.decode(codes), model.reconstruct(x))
        ((2, 8, 8), (2, 3, 32, 32), True)
    """

    modality = "image"
    default_lr = 3e-4
    renamed_keys: ClassVar = {"train_usage.": "codebook.train_usage.", "revived": "codebook.revived"}

    def __init__(
        self,
        encoder: Encoder | None = None,
        decoder: Decoder | None = None,
        quantizer: Quantizer | None = None,
        reconstruction: Literal["l2", "l1", "huber"] = "l2",
        lr: Positive | None = None,
        base_lr: Positive | None = None,
        optimization: Optimization = Optimization(),
        frechet: FrechetDistance | None = None,
        images: ImageFormat = ImageFormat(),
    ) -> None:
        super().__init__()
        check_lr(lr, base_lr)
        self.lr, self.base_lr, self.optimization, self.reconstruction = lr, base_lr, optimization, reconstruction
        self.images, self.value_range = images, images.value_range
        self.encoder: Encoder = encoder or SmallEncoder(in_channels=images.channels)
        self.decoder: Decoder = decoder or SmallDecoder(out_channels=images.channels)
        self.quantizer: Quantizer = quantizer or VectorQuantizer()
        self.map_size = check_autoencoder(self.encoder, self.decoder, images.channels, images.size)
        self.quantizer.check_map(self.map_size)
        self.to_code = nn.Conv2d(self.encoder.out_channels, self.quantizer.embedding_dim, 1)
        self.from_code = nn.Conv2d(self.quantizer.embedding_dim, self.decoder.in_channels, 1)
        self.codebook = CodebookUpdates(self.quantizer)
        self.metrics = ReconstructionMetrics(self.quantizer, images, self.encoder.downsampling, frechet)

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
        """One batch; the gradient step and the codebook's update follow in ``optimizer_step``."""
        x = batch["image"]
        self.quantizer.sample_index = batch.get("index")
        x_hat, code = self(x)
        rec_loss = RECONSTRUCTION[self.reconstruction](x_hat, x)
        loss = rec_loss + code.loss

        terms = {"rec_loss": rec_loss.detach(), **code.terms}
        require_finite({"loss": loss, **terms}, batch_idx, self.global_step)
        self.codebook.collect(code)
        self.log_training(loss, terms, x_hat, x)
        return loss

    def optimizer_step(self, epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Any = None) -> None:
        """Step the weights, then update the codebook, before any callback writes a checkpoint."""
        super().optimizer_step(epoch, batch_idx, optimizer, optimizer_closure)
        self.codebook.commit(self.quantizer, optimizer)

    def configure_optimizers(self) -> Any:
        """One optimizer for all parts; no weight decay on a codebook."""
        nets = nn.ModuleList([self.encoder, self.to_code, self.from_code, self.decoder])
        groups: list[dict[str, Any]] = [{"params": list(nets.parameters())}]
        if codebook := list(self.quantizer.parameters()):
            groups.append({"params": codebook, "weight_decay": 0.0})
        return self.optimization.optimizer(self, groups, "autoencoder")

    def prepare_data(self) -> None:
        """Fetch what the Frechet distance needs, once per machine, before anything of the run is written."""
        if self.metrics.frechet is not None and not self.trainer.predicting:
            self.metrics.frechet.load()

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
        """Log loss, PSNR and SSIM of a batch."""
        x = batch["image"]
        x_hat, code = self(x)
        rec_loss = RECONSTRUCTION[self.reconstruction](x_hat, x)
        losses = {"loss": rec_loss + code.loss, "rec_loss": rec_loss}
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
