"""S4D-VQ: discrete codes of signals, between an encoder and a decoder of state-space layers."""

import math
from typing import Any, Literal

import torch
from torch import Tensor, nn

from vqlab.errors import UserError
from vqlab.metrics.signal import correlation, snr, spectral_convergence
from vqlab.models.vq.base import QuantizedAutoencoder
from vqlab.nn.autoencoders.s4d import S4DDecoder, S4DEncoder, check_length
from vqlab.nn.base import Decoder, Encoder, check_fit, wrong_channels
from vqlab.nn.ssm.s4d import S4D
from vqlab.quantizers.base import Quantizer
from vqlab.quantizers.identity import IdentityQuantizer
from vqlab.quantizers.vector import VectorQuantizer
from vqlab.serialization import from_config
from vqlab.training.batches import passed_on
from vqlab.training.learning_rate import configured_rate
from vqlab.training.schedules import Schedule


class S4DVQ(QuantizedAutoencoder):
    """A VQ-VAE for signals: S4D encoder, batch norm and MLP, quantizer, MLP, S4D decoder, batch norm and MLP.

    loss = reconstruction(x^, x) + quantizer loss. Signals come standardised from the data. The time steps and modes of
    the S4D layers have a learning rate of their own, at most ``ssm_lr``, and do not decay.

    Args:
        encoder: Network from signals to features; null takes an ``S4DEncoder`` with its defaults.
        decoder: Network from features to signals; null takes an ``S4DDecoder`` with its defaults.
        quantizer: ``vector`` takes a ``VectorQuantizer`` of 512 codes with 512 dimensions; null has no codes.
        reconstruction: ``l2``, ``l1`` or ``huber``, averaged over all numbers of the batch.
        lr: Absolute learning rate; without ``lr`` and ``base_lr`` it is 1e-3.
        base_lr: Rate per signal: lr = base_lr x batch_size x devices x nodes x accumulation. Give one of the two.
        ssm_lr: Highest learning rate of the time steps and modes.
        betas: Adam's decay rates.
        weight_decay: Decoupled weight decay; none on the codebook, the time steps and the modes.
        schedule: Learning-rate schedule; null is constant.
        channels: Channels of the signals; the command line links it to the data.
        length: Samples of a signal; linked to the data.

    Shape:
        signals (B, channels, L), L divisible by the downsampling; indices (B, L / downsampling) int64; behind these the
        axes that the quantizer's indices have.

    Raises:
        UserError: If both rates are given, the length is not divisible, or the channels of the parts differ.

    Example:
        >>> model = S4DVQ().eval()
        >>> x = torch.randn(2, 1, 512)
        >>> codes = model.encode(x)
        >>> tuple(codes.shape), tuple(model.decode(codes).shape), torch.equal(model.decode(codes), model.reconstruct(x))
        ((2, 32), (2, 1, 512), True)
    """

    modality = "signal"
    default_lr = 1e-3

    def __init__(
        self,
        encoder: Encoder | None = None,
        decoder: Decoder | None = None,
        quantizer: Quantizer | Literal["vector"] | None = "vector",
        reconstruction: Literal["l2", "l1", "huber"] = "l2",
        lr: float | None = None,
        base_lr: float | None = None,
        ssm_lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        weight_decay: float = 0.0,
        schedule: Schedule | None = None,
        channels: int = 1,
        length: int = 512,
    ) -> None:
        encoder = from_config(encoder) or S4DEncoder(in_channels=channels)
        if quantizer == "vector":
            quantizer = VectorQuantizer(512, 512)
        super().__init__(
            encoder,
            from_config(decoder) or S4DDecoder(out_channels=channels),
            from_config(quantizer) or IdentityQuantizer(encoder.out_channels),
            nn.Conv1d,
            reconstruction=reconstruction,
            lr=lr,
            base_lr=base_lr,
            betas=betas,
            weight_decay=weight_decay,
            schedule=from_config(schedule),
        )
        if not (ssm_lr > 0 and math.isfinite(ssm_lr)):
            raise UserError(f"ssm_lr must be a positive number, got {ssm_lr}: set --model.ssm_lr=0.001")
        self.ssm_lr, self.channels, self.length = ssm_lr, channels, length
        check_fit(self.encoder, self.decoder, channels, "signal", "give both the same pool")
        check_length(length, self.encoder.downsampling)
        self.map_size = (length // self.encoder.downsampling,)
        self.quantizer.check_map(self.map_size)

    def predict_step(self, batch: dict[str, Tensor], batch_idx: int) -> dict[str, Tensor]:
        """Return ``indices`` (B, l) with the batch's ``index``."""
        return {"indices": self.encode(batch["signal"]), **passed_on(batch, "index")}

    @torch.no_grad()
    def example_signals(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return what to plot: ``input`` and ``reconstruction`` (B, C, L), ``indices`` (B, l, ...)."""
        x = batch["signal"]
        x_hat, code = self(x)
        return {"input": x, "reconstruction": x_hat, "indices": code.indices}

    def quality(self, x_hat: Tensor, x: Tensor) -> dict[str, Tensor]:
        """Return the mean signal-to-noise ratio in dB."""
        return {"snr": snr(x_hat, x).mean()}

    def _check(self, x: Tensor) -> None:
        if x.ndim != 3 or x.shape[1] != self.channels:
            raise UserError(wrong_channels("signals", f"(B, {self.channels}, L)", x, self.channels))

    def figures(self, x_hat: Tensor, x: Tensor, bits: float) -> dict[str, Any]:
        """Return squared error, correlation and the distance of spectra; of several channels each by itself, too."""
        likeness = correlation(x_hat, x).mean(0)
        figures: dict[str, Any] = {
            "mse": (x_hat - x).square().mean(),
            "correlation": likeness.mean(),
            "spectral_convergence": spectral_convergence(x_hat, x).mean(),
            "bits_per_sample": bits / x.shape[-1],
        }
        if self.channels > 1:
            figures |= {f"snr_{c}": ratio for c, ratio in enumerate(snr(x_hat, x).mean(0))}
            figures |= {f"correlation_{c}": value for c, value in enumerate(likeness)}
        return figures

    def _parameter_groups(self) -> list[dict[str, Any]]:
        groups = super()._parameter_groups()
        modes = [p for part in self.modules() if isinstance(part, S4D) for p in part.ssm_parameters()]
        if not modes:
            return groups
        known = set(modes)
        groups[0]["params"] = [p for p in groups[0]["params"] if p not in known]
        rate = min(self.ssm_lr, configured_rate(self, self.lr, self.base_lr, self.default_lr, "ssm"))
        return [*groups, {"params": modes, "weight_decay": 0.0, "lr": rate, "name": "ssm"}]
