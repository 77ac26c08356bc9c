"""S4D-VQ: a VQ-VAE for signals, with state-space layers in encoder and decoder."""

import math
from collections.abc import Iterable
from itertools import islice
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from vqlab.errors import UserError
from vqlab.losses import MultiResolutionSTFT, derivative_loss
from vqlab.metrics.signal import correlation, prd, snr, spectral_convergence
from vqlab.models.model import Model
from vqlab.models.vq import autoencoder
from vqlab.models.vq.autoencoder import RECONSTRUCTION, RENAMED_KEYS, CodebookUpdates
from vqlab.nn import S4D, S4DDecoder, S4DEncoder
from vqlab.nn.base import Decoder, Encoder, check_divisible, check_fit, wrong_channels
from vqlab.nn.distributed import all_sum
from vqlab.quantizers import IdentityQuantizer, Quantizer, VectorQuantizer
from vqlab.quantizers.base import DataInit, to_rows
from vqlab.training import Optimization
from vqlab.training.batches import predict_codes
from vqlab.training.learning_rate import configured_rate
from vqlab.training.steps import require_finite
from vqlab.validation import Count, NonNegative, Positive

FIRST_BATCHES = 64


class S4DVQ(Model):
    """A VQ-VAE for signals: S4D encoder, batch norm and MLP, quantizer, MLP, S4D decoder, batch norm and MLP.

    loss = reconstruction(x^, x) + stft_weight * STFT(x^, x) + derivative_weight * |dx^ - dx|^2 + quantizer loss, on
    standardised signals. The time steps and modes of the S4D layers have their own learning rate, at most ``ssm_lr``,
    and no weight decay.

    Args:
        encoder: Network from signals to features. Default: an ``S4DEncoder``.
        decoder: Network from features to signals. Default: an ``S4DDecoder``.
        quantizer: ``vector`` is a ``VectorQuantizer`` of 512 codes with 512 dimensions; null trains without codes.
        klt: Begin with the Karhunen-Loeve transform (PCA) of the features of the first 64 batches as ``to_code``, its
            transpose as ``from_code``. With a ``PatchEncoder`` a new model without codes is the identity.
        reconstruction: ``l2``, ``l1`` or ``huber``, averaged over all elements.
        stft_weight: Weight of the :class:`~vqlab.losses.MultiResolutionSTFT` loss, which a smooth reconstruction
            does not lower; 0 leaves it out.
        derivative_weight: Weight of the squared error of first differences, which stresses steep waves; 0 leaves it
            out.
        lr: Absolute learning rate. Default without ``base_lr``: 1e-3.
        base_lr: Rate per signal: lr = base_lr x batch_size x devices x nodes x accumulation. Give one of the two.
        ssm_lr: Highest learning rate of the time steps and modes.
        optimization: Optimizer settings.
        channels: Channels of the signals; the command line takes it from the data.
        length: Samples of a signal; the command line takes it from the data.

    Shape:
        signals (B, C, L), L divisible by the downsampling; indices (B, L / downsampling) int64, or as the quantizer
        documents.

    Raises:
        UserError: If the length is not divisible, or the channels of the parts differ.

    Example:
        >>> model = S4DVQ().eval()
        >>> x = torch.randn(2, 1, 512)
        >>> codes = model.encode(x)
        >>> tuple(codes.shape), tuple(model.decode(codes).shape), torch.equal(model.decode(codes), model.reconstruct(x))
        ((2, 32), (2, 1, 512), True)
    """

    modality = "signal"
    default_lr = 1e-3
    renamed_keys: ClassVar = RENAMED_KEYS

    def __init__(
        self,
        encoder: Encoder | None = None,
        decoder: Decoder | None = None,
        quantizer: Quantizer | Literal["vector"] | None = "vector",
        klt: bool = False,
        reconstruction: Literal["l2", "l1", "huber"] = "l2",
        stft_weight: NonNegative = 0.0,
        derivative_weight: NonNegative = 0.0,
        lr: Positive | None = None,
        base_lr: Positive | None = None,
        ssm_lr: Positive = 1e-3,
        optimization: Optimization = Optimization(),
        channels: Count = 1,
        length: Count = 512,
    ) -> None:
        super().__init__()
        self.ssm_lr, self.optimization, self.reconstruction = ssm_lr, optimization, reconstruction
        self.stft = MultiResolutionSTFT() if stft_weight else None
        self.stft_weight, self.derivative_weight = stft_weight, derivative_weight
        self.channels, self.length = channels, length
        self.encoder: Encoder = encoder or S4DEncoder(in_channels=channels)
        self.decoder: Decoder = decoder or S4DDecoder(out_channels=channels)
        if quantizer == "vector":
            quantizer = VectorQuantizer(512, 512)
        self.quantizer: Quantizer = quantizer or IdentityQuantizer(self.encoder.out_channels)
        check_fit(self.encoder, self.decoder, channels, "signal", "give both the same pool")
        check_divisible(f"signals of {length} samples are", (length,), self.encoder.downsampling, "length")
        self.map_size = (length // self.encoder.downsampling,)
        self.quantizer.check_map(self.map_size)
        self.to_code = nn.Conv1d(self.encoder.out_channels, self.quantizer.embedding_dim, 1)
        self.from_code = nn.Conv1d(self.quantizer.embedding_dim, self.decoder.in_channels, 1)
        self.codebook = CodebookUpdates(self.quantizer)
        self.first_batches = DataInit() if klt else None

    forward = autoencoder.forward
    encode = autoencoder.encode
    decode = autoencoder.decode
    reconstruct = autoencoder.reconstruct
    code_counts = autoencoder.code_counts
    optimizer_step = autoencoder.optimizer_step
    finish_evaluation = autoencoder.finish_evaluation
    predict_step = predict_codes

    def check_input(self, x: Tensor) -> None:
        """Raise UserError unless ``x`` is (B, C, L) with the channels of the model."""
        if x.ndim != 3 or x.shape[1] != self.channels:
            raise UserError(wrong_channels("signals", f"(B, {self.channels}, L)", x, self.channels))

    def on_train_start(self) -> None:
        """Fit the transform and the quantizer to the first batches."""
        super().on_train_start()
        if self.first_batches is not None and self.first_batches.awaited:
            loader: Any = self.trainer.train_dataloader
            self.fit_transform(batch["signal"].to(self.device) for batch in islice(loader, FIRST_BATCHES))

    @torch.no_grad()
    def fit_transform(self, batches: Iterable[Tensor]) -> None:
        """Set ``to_code`` to the KLT of the features of all ranks' ``batches`` (B, C, L), and fit the codes to them.

        The running means of the codes weigh a batch as a step.
        """
        features = [self.encoder(x) for x in batches]  # one by one: activations take far more memory than features
        z = torch.cat(features)
        rows = to_rows(z, self.encoder.out_channels)
        sums = all_sum(torch.cat([torch.ones_like(rows[:, :1]), rows], 1).double().T @ rows.double())
        count = all_sum(torch.tensor(float(len(rows)), device=rows.device, dtype=torch.float64))
        mean = sums[0] / count
        covariance = sums[1:] / count - mean.outer(mean)
        basis = torch.linalg.eigh(covariance).eigenvectors.flip(1)[:, : self.quantizer.embedding_dim]
        for layer, weight, bias in ((self.to_code, basis.T, -mean @ basis), (self.from_code, basis, mean)):
            layer.weight.copy_(weight[..., None])
            layer.bias.copy_(bias)  # type: ignore[union-attr]
        coordinates = to_rows(self.to_code(z), self.quantizer.embedding_dim)
        self.quantizer.initialize(self.quantizer.bound(coordinates), len(features))
        if self.first_batches is not None:
            self.first_batches.done()

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        """Return the loss; ``optimizer_step`` then updates the weights and the codebook."""
        x = batch["signal"]
        self.quantizer.sample_index = batch.get("index")
        x_hat, code = self(x)
        rec_loss, terms = self.reconstruction_loss(x_hat, x)
        loss = rec_loss + code.loss

        terms |= code.terms
        require_finite({"loss": loss, **terms}, batch_idx, self.global_step)
        self.codebook.collect(code)
        self.codebook.log(self, loss, terms | {"snr": snr(x_hat.detach().float(), x).mean()})
        return loss

    def reconstruction_loss(self, x_hat: Tensor, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the weighted sum of the reconstruction terms, and the terms for the log."""
        loss = RECONSTRUCTION[self.reconstruction](x_hat, x)
        terms = {"rec_loss": loss.detach()}
        if self.stft is not None:
            stft = self.stft(x_hat, x)
            loss, terms["stft_loss"] = loss + self.stft_weight * stft, stft.detach()
        if self.derivative_weight:
            derivative = derivative_loss(x_hat, x)
            loss, terms["derivative_loss"] = loss + self.derivative_weight * derivative, derivative.detach()
        return loss, terms

    def configure_optimizers(self) -> Any:
        modes = [p for part in self.modules() if isinstance(part, S4D) for p in part.ssm_parameters()]
        groups = autoencoder.parameter_groups(self, without=set(modes))
        if modes:
            rate = min(self.ssm_lr, configured_rate(self, self.lr, self.base_lr, self.default_lr, "ssm"))
            groups.append({"params": modes, "weight_decay": 0.0, "lr": rate, "name": "ssm"})
        return self.optimization.optimizer(self, groups, "autoencoder")

    def evaluate(self, batch: dict[str, Tensor], stage: str) -> None:
        """Log loss, terms, squared error, SNR, PRD, correlation and spectral convergence, of all channels and each."""
        x = batch["signal"]
        x_hat, code = self(x)
        rec_loss, terms = self.reconstruction_loss(x_hat, x)
        x_hat = x_hat.float()
        self.codebook.usage.update(code.indices)
        by_channel, ratios = correlation(x_hat, x).mean(0), snr(x_hat, x)
        metrics = {
            "loss": rec_loss + code.loss,
            **terms,
            "mse": (x_hat - x).square().mean(),
            "prd": prd(x_hat, x).mean(),
            "correlation": by_channel.mean(),
            "spectral_convergence": spectral_convergence(x_hat, x).mean(),
            "bits_per_sample": code.indices[0].numel() * math.log2(self.quantizer.num_embeddings) / x[0].numel(),
        }
        if self.channels > 1:
            metrics |= {f"snr_{c}": ratio for c, ratio in enumerate(ratios.mean(0))}
            metrics |= {f"correlation_{c}": value for c, value in enumerate(by_channel)}
        self.log_means(stage, metrics, len(x))
        self.log_means(stage, {"snr": ratios.mean()}, len(x), prog_bar=True)

    @torch.no_grad()
    def example_signals(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return ``input`` and ``reconstruction`` (B, C, L), ``indices`` (B, l, ...)."""
        x = batch["signal"]
        x_hat, code = self(x)
        return {"input": x, "reconstruction": x_hat, "indices": code.indices}
