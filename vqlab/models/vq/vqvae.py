"""VQ-VAE (van den Oord et al. 2017, arXiv:1711.00937): an autoencoder with a quantized latent."""

from typing import Any, ClassVar, Literal

from torch import Tensor, nn

from vqlab.losses import Perceptual
from vqlab.metrics import FrechetDistance
from vqlab.models.model import Model
from vqlab.models.vq import autoencoder
from vqlab.models.vq.autoencoder import RECONSTRUCTION, RENAMED_KEYS, CodebookUpdates
from vqlab.nn import ImageFormat, SmallDecoder, SmallEncoder
from vqlab.nn.base import Decoder, Encoder, check_autoencoder
from vqlab.quantizers import Quantizer, VectorQuantizer
from vqlab.training import Optimization
from vqlab.training.batches import predict_codes
from vqlab.training.steps import require_finite
from vqlab.validation import Positive


class VQVAE(Model):
    """Encoder, quantizer and decoder, trained on the reconstruction loss and the quantizer loss.

    loss = reconstruction(x^, x) + quantizer loss (paper, equation 3). To sample new images, train a ``CodePrior`` over
    the codes.

    Args:
        encoder: Network from images to features. Default: a ``SmallEncoder``, the paper's.
        decoder: Network from features to images. Default: a ``SmallDecoder``, the paper's.
        quantizer: Default: a ``VectorQuantizer``.
        reconstruction: ``l2``, ``l1`` or ``huber``, averaged over all elements.
        lr: Absolute learning rate. Default without ``base_lr``: 3e-4.
        base_lr: Rate per image: lr = base_lr x batch_size x devices x nodes x accumulation. Give one of the two.
        optimization: Optimizer settings.
        frechet: Frechet distance between images and reconstructions, logged as ``val/rfid_<net>``; null: none.
        images: Format of the images; the command line takes it from the data.

    Shape:
        images (B, C, H, W) in the value range of ``images``; indices (B, h, w) int64, h = w = H / downsampling, or as
        the quantizer documents.

    Raises:
        UserError: If the image size is not divisible, or the channels of the parts differ.

    Example:
        >>> import torch
        >>> from vqlab.quantizers.fsq import FSQ
        >>> model = VQVAE(quantizer=FSQ([8, 5, 5, 5])).eval()
        >>> x = torch.rand(2, 3, 32, 32) * 2 - 1
        >>> codes = model.encode(x)
        >>> tuple(codes.shape), tuple(model.decode(codes).shape), torch.equal(model.decode(codes), model.reconstruct(x))
        ((2, 8, 8), (2, 3, 32, 32), True)
    """

    modality = "image"
    default_lr = 3e-4
    renamed_keys: ClassVar = RENAMED_KEYS
    perceptual: Perceptual | None = None

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
        self.images, self.value_range = images, images.value_range
        self.encoder: Encoder = encoder or SmallEncoder(in_channels=images.channels)
        self.decoder: Decoder = decoder or SmallDecoder(out_channels=images.channels)
        self.quantizer: Quantizer = quantizer or VectorQuantizer()
        self.map_size = check_autoencoder(self.encoder, self.decoder, images.channels, images.size)
        self.quantizer.check_map(self.map_size)
        self.to_code = nn.Conv2d(self.encoder.out_channels, self.quantizer.embedding_dim, 1)
        self.from_code = nn.Conv2d(self.quantizer.embedding_dim, self.decoder.in_channels, 1)
        self.codebook = CodebookUpdates(self.quantizer)
        self.frechet = frechet
        if frechet is not None:
            frechet.check_shape(*images.shape)

    forward = autoencoder.forward
    encode = autoencoder.encode
    decode = autoencoder.decode
    reconstruct = autoencoder.reconstruct
    code_counts = autoencoder.code_counts
    check_input = autoencoder.check_input
    optimizer_step = autoencoder.optimizer_step
    evaluate = autoencoder.evaluate
    finish_evaluation = autoencoder.finish_evaluation
    predict_step = predict_codes
    example_images = autoencoder.example_images

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        """Return the loss; ``optimizer_step`` then updates the weights and the codebook."""
        x = batch["image"]
        self.quantizer.sample_index = batch.get("index")
        x_hat, code = self(x)
        rec_loss = RECONSTRUCTION[self.reconstruction](x_hat, x)
        loss = rec_loss + code.loss

        terms = {"rec_loss": rec_loss.detach(), **code.terms}
        require_finite({"loss": loss, **terms}, batch_idx, self.global_step)
        self.codebook.collect(code)
        self.codebook.log(self, loss, terms | {"psnr": autoencoder.training_psnr(self, x_hat, x)})
        return loss

    def configure_optimizers(self) -> Any:
        return self.optimization.optimizer(self, autoencoder.parameter_groups(self), "autoencoder")
