"""VQ-VAE (van den Oord et al. 2017, arXiv:1711.00937): an autoencoder with a discrete code in its middle."""

from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vqlab.errors import UserError
from vqlab.metrics.images.frechet import FrechetDistance
from vqlab.metrics.images.psnr import psnr
from vqlab.metrics.images.ssim import ssim
from vqlab.models.vq.base import QuantizedAutoencoder
from vqlab.nn.autoencoders.small import SmallDecoder, SmallEncoder
from vqlab.nn.base import Decoder, Encoder, check_autoencoder, wrong_channels
from vqlab.nn.value_range import ValueRange
from vqlab.quantizers.base import Quantizer
from vqlab.quantizers.vector import VectorQuantizer
from vqlab.serialization import from_config
from vqlab.training.batches import passed_on
from vqlab.training.schedules import Schedule


class VQVAE(QuantizedAutoencoder):
    """Encoder, quantizer, decoder, trained on the reconstruction and the quantizer's own loss.

    loss = reconstruction(x^, x) + quantizer loss (paper, equation 3). Any quantizer goes with any network. Drawing new
    images needs a prior over the codes, which is a model of its own.

    Args:
        encoder: Network from images to features; null takes the paper's, ``SmallEncoder``.
        decoder: Network from features to images; null takes the paper's, ``SmallDecoder``.
        quantizer: Null takes a ``VectorQuantizer`` with its defaults.
        reconstruction: ``l2``, ``l1`` or ``huber``, averaged over all numbers of the batch.
        lr: Absolute learning rate; without ``lr`` and ``base_lr`` it is 3e-4.
        base_lr: Rate per image: lr = base_lr x batch_size x devices x nodes x accumulation. Give one of the two.
        betas: Adam's decay rates.
        weight_decay: Decoupled weight decay; none on the codebook.
        schedule: Learning-rate schedule; null is constant.
        frechet: Frechet distance between images and reconstructions in evaluation, logged as ``val/rfid_<net>``; null
            computes none.
        channels: Channels of the images; the command line links it to the data.
        image_size: Height and width of the images; linked to the data.
        value_range: What the numbers of an image mean; linked to the data.

    Shape:
        images (B, channels, image_size, image_size) in ``value_range``; indices (B, h, w) int64,
        h = w = image_size / downsampling; behind these, or instead, the axes that the quantizer's indices have.

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

    def __init__(
        self,
        encoder: Encoder | None = None,
        decoder: Decoder | None = None,
        quantizer: Quantizer | None = None,
        reconstruction: Literal["l2", "l1", "huber"] = "l2",
        lr: float | None = None,
        base_lr: float | None = None,
        betas: tuple[float, float] = (0.9, 0.999),
        weight_decay: float = 0.0,
        schedule: Schedule | None = None,
        frechet: FrechetDistance | None = None,
        channels: int = 3,
        image_size: int = 32,
        value_range: ValueRange | Literal["unit", "signed"] = "signed",
    ) -> None:
        # load_from_checkpoint hands the parts over as the plain data that they were stored as.
        super().__init__(
            from_config(encoder) or SmallEncoder(in_channels=channels),
            from_config(decoder) or SmallDecoder(out_channels=channels),
            from_config(quantizer) or VectorQuantizer(),
            nn.Conv2d,
            reconstruction=reconstruction,
            lr=lr,
            base_lr=base_lr,
            betas=betas,
            weight_decay=weight_decay,
            schedule=from_config(schedule),
        )
        value_range = from_config(value_range)
        self.value_range = ValueRange(value_range) if isinstance(value_range, str) else value_range
        self.channels, self.image_size = channels, image_size
        self.map_size = check_autoencoder(self.encoder, self.decoder, channels, image_size)
        self.quantizer.check_map(self.map_size)
        self.frechet: FrechetDistance | None = from_config(frechet)
        if self.frechet is not None:
            self.frechet.check_shape(channels, image_size, image_size)

    def prepare_data(self) -> None:
        """Fetch what the Frechet distance needs, once per machine, before anything of the run is written."""
        if self.frechet is not None and not self.trainer.predicting:
            self.frechet.load()

    def predict_step(self, batch: dict[str, Tensor], batch_idx: int) -> dict[str, Tensor]:
        """Return ``indices`` (B, h, w) with the batch's ``label`` and ``index``."""
        return {"indices": self.encode(batch["image"]), **passed_on(batch, "label", "index")}

    @torch.no_grad()
    def example_images(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return images in [0, 1] to look at: ``input`` and ``reconstruction``, both (B, C, H, W)."""
        x = batch["image"]
        return {"input": self.value_range.decode(x), "reconstruction": self.value_range.decode(self.reconstruct(x))}

    def quality(self, x_hat: Tensor, x: Tensor) -> dict[str, Tensor]:
        """Return the peak signal-to-noise ratio in dB."""
        return {"psnr": psnr(self.value_range.decode(x_hat), self.value_range.decode(x))}

    def _check(self, x: Tensor) -> None:
        if x.ndim != 4 or x.shape[1] != self.channels:
            raise UserError(wrong_channels("images", f"(B, {self.channels}, H, W)", x, self.channels))

    def figures(self, x_hat: Tensor, x: Tensor, bits: float) -> dict[str, Any]:
        """Return the structural similarity, and what a mere thumbnail would reach."""
        image, image_hat = self.value_range.decode(x), self.value_range.decode(x_hat)
        if self.frechet is not None:
            self.frechet.update(image, real=True)
            self.frechet.update(image_hat, real=False)
        return {
            "bits_per_image": bits,
            "psnr_patch_mean": psnr(patch_mean(image, self.encoder.downsampling), image),
            "ssim": ssim(image_hat, image).mean(),
        }

    def _log_whole_set(self, stage: str) -> None:
        super()._log_whole_set(stage)
        if self.frechet is not None:
            self.log(f"{stage}/rfid_{self.frechet.name}", self.frechet.compute().float(), sync_dist=True)
            self.frechet.reset()


def patch_mean(image: Tensor, size: int) -> Tensor:
    """Replace each size x size patch of ``image`` (B, C, H, W) by its mean colour: what a mere thumbnail would keep."""
    return F.interpolate(F.avg_pool2d(image, size), scale_factor=float(size), mode="nearest")
