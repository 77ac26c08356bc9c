"""VQ-VAE (van den Oord et al. 2017, arXiv:1711.00937): an autoencoder with a discrete code in its middle."""

from typing import Any, Literal

from torch import Tensor

from vqlab.metrics.images.frechet import FrechetDistance
from vqlab.models.vq.autoencoder import RECONSTRUCTION, ImageAutoencoder
from vqlab.nn import Decoder, Encoder, ImageFormat, SmallDecoder, SmallEncoder
from vqlab.quantizers import Quantizer, VectorQuantizer
from vqlab.training.finite import require_finite
from vqlab.training.optimization import Optimization
from vqlab.validation import Positive


class VQVAE(ImageAutoencoder):
    """Encoder, quantizer, decoder, trained on the reconstruction and the quantizer's own loss.

    loss = reconstruction(x^, x) + quantizer loss (paper, equation 3). Drawing new images needs a prior over the codes,
    which is a model of its own: ``CodePrior``. Indices are (B, h, w) int64, h = w = H / downsampling; behind these, or
    instead, the axes that the quantizer's indices have.

    Args:
        encoder: Network from images to features. Default: a ``SmallEncoder``, the paper's.
        decoder: Network from features to images. Default: a ``SmallDecoder``, the paper's.
        quantizer: Default: a ``VectorQuantizer``.
        reconstruction: ``l2``, ``l1`` or ``huber``, averaged over all numbers of the batch.
        lr: Absolute learning rate. Default without ``base_lr``: 3e-4.
        base_lr: Rate per image: lr = base_lr x batch_size x devices x nodes x accumulation. Give one of the two.
        optimization: Optimizer settings.
        frechet: Frechet distance between images and reconstructions, logged as ``val/rfid_<net>``; null: none.
        images: Format of the images; the command line takes it from the data.

    Example:
        >>> import torch
        >>> from vqlab.quantizers.fsq import FSQ
        >>> model = VQVAE(quantizer=FSQ([8, 5, 5, 5])).eval()
        >>> x = torch.rand(2, 3, 32, 32) * 2 - 1
        >>> tuple(model.encode(x).shape), torch.equal(model.decode(model.encode(x)), model.reconstruct(x))
        ((2, 8, 8), True)
    """

    default_lr = 3e-4
    perceptual = None

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
        self.optimization, self.reconstruction = optimization, reconstruction
        self.encoder = encoder or SmallEncoder(in_channels=images.channels)
        self.decoder = decoder or SmallDecoder(out_channels=images.channels)
        self.build(quantizer or VectorQuantizer(), images, frechet)

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
        self.codebook.log(self, loss, terms | {"psnr": self.psnr(x_hat.detach().float(), x)})
        return loss

    def configure_optimizers(self) -> Any:
        """One optimizer for all parts; no weight decay on a codebook."""
        return self.optimization.optimizer(self, self.parameter_groups(), "autoencoder")
