"""Records of any length to the codes of an S4DVQ, and back."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from vqlab.errors import UserError
from vqlab.models.vq.block_scaling import BlockScaling, FixedScaling
from vqlab.models.vq.s4dvq import S4DVQ
from vqlab.nn import S4D
from vqlab.nn.precision import like_weights
from vqlab.training.data_format import ENTRY

CHUNK = 2**16
LONGEST_CONTEXT = 2**15  # samples
TOLERANCE = 1e-5  # of the deviation


@dataclass(frozen=True)
class SignalCodes:
    """The codes of a record."""

    codes: np.ndarray  # (l, ...) int64, one or several for each patch
    num_samples: int  # T; the last patch may be longer than the record
    scaling: BlockScaling | None  # what the standardisation took out; None if the checkpoint holds it


class SignalCodec:
    """Encode records of any length with an S4DVQ, and decode them.

    A record is standardised as the data that the model was trained on. If those were standardised by window, mean and
    scale of each block of ``model.length`` samples become part of the codes, and change smoothly from block to block.
    Long records go through the networks in chunks with context on both sides, and the output for the context is
    dropped. The last patch is filled up with the last sample. In records longer than ``model.length`` the kernels of
    S4D are those of windows of that length, on average over the positions in a window (``S4D.taper``): the model has
    not been trained on later lags.

    Args:
        model: An S4DVQ with codes, in eval mode.
        chunk_size: Samples of a chunk, without its context; at least ``model.length``.

    Raises:
        UserError: If the model has no codes for single patches.

    Example:
        >>> codec = SignalCodec(S4DVQ().eval())
        >>> coded = codec.encode(np.random.default_rng(0).standard_normal((1, 1000)))
        >>> coded.codes.shape, codec.decode(coded).shape
        ((63,), (1, 1000))
    """

    def __init__(self, model: S4DVQ, chunk_size: int = CHUNK) -> None:
        name = type(model.quantizer).__name__
        if model.quantizer.num_embeddings < 2:
            raise UserError(f"the model must have codes, {name} has none: use a checkpoint with another quantizer")
        if model.quantizer.code_shape((7,))[0] != 7:
            raise UserError(f"the quantizer must have codes for each position, and {name} has not")
        self.model, self.patch = model, model.encoder.downsampling
        self.chunk = max(chunk_size, model.length) // self.patch  # in patches
        trained = getattr(model, ENTRY, None) or {}
        self.fixed = fixed_scaling(trained.get("standardize", "signal"), trained.get("statistics"), model.channels)

    @torch.inference_mode()
    def encode(self, signal: np.ndarray) -> SignalCodes:
        """Return the codes of a record (C, T); UserError if it is empty, not finite, or has other channels."""
        if signal.ndim != 2 or len(signal) != self.model.channels or not signal.size:
            raise UserError(f"the record must be ({self.model.channels}, T), got {signal.shape}")
        if not np.isfinite(signal).all():
            channel, sample = np.argwhere(~np.isfinite(signal))[0].tolist()
            raise UserError(f"the record must be finite, but channel {channel} is not at sample {sample}")
        length = signal.shape[1]
        blocks = None if self.fixed else BlockScaling.fit(signal, self.model.length)
        codes = []
        for chunk, inner in self._chunks(self.count_patches(length)):
            first, last = chunk.start * self.patch, min(chunk.stop * self.patch, length)
            mean, scale = (self.fixed or blocks).curves(first, last)  # type: ignore[union-attr]
            x = ((signal[:, first:last] - mean) / np.where(scale > 0, scale, 1)).astype(np.float32)
            x = np.pad(x, ((0, 0), (0, chunk.stop * self.patch - first - x.shape[1])), "edge")
            codes.append(self.model.encode(self._batch(x))[0, inner].cpu().numpy())
        return SignalCodes(np.concatenate(codes), length, blocks)

    @torch.inference_mode()
    def decode(self, coded: SignalCodes) -> np.ndarray:
        """Return the record (C, T) float32."""
        signal = np.empty((self.model.channels, coded.num_samples), np.float32)
        for chunk, inner in self._chunks(len(coded.codes)):
            x = self.model.decode(torch.from_numpy(coded.codes[None, chunk]))[0].float().cpu().numpy()
            first = (chunk.start + inner.start) * self.patch
            last = min((chunk.start + inner.stop) * self.patch, coded.num_samples)
            mean, scale = (self.fixed or coded.scaling).curves(first, last)  # type: ignore[union-attr]
            start = inner.start * self.patch
            signal[:, first:last] = mean + scale * x[:, start : start + last - first]
        return signal

    def count_patches(self, samples: int) -> int:
        """Return the number of patches of a record."""
        return -(-samples // self.patch)

    def _chunks(self, patches: int) -> Iterator[tuple[slice, slice]]:
        """Yield the patches of each chunk with its context, and the chunk as part of these; set ``taper`` meanwhile."""
        long = patches * self.patch > self.model.length
        try:
            for layer, positions in self._window_lengths:
                layer.taper = positions if long else None
            context = self._context if patches > self.chunk else 0
            for start in range(0, patches, self.chunk):
                stop = min(start + self.chunk, patches)
                first, last = max(0, start - context), min(patches, stop + context)
                yield slice(first, last), slice(start - first, stop - first)
        finally:
            for layer, _ in self._window_lengths:
                layer.taper = None

    @cached_property
    def _window_lengths(self) -> list[tuple[S4D, int]]:
        """The S4D layers, and their positions in a window of ``model.length`` samples."""
        found: list[tuple[S4D, int]] = []
        layers = [module for module in self.model.modules() if isinstance(module, S4D)]
        hooks = [
            layer.register_forward_pre_hook(lambda layer, inputs: found.append((layer, inputs[0].shape[-1])))  # type: ignore[misc]
            for layer in layers
        ]
        self.model.reconstruct(self._batch(np.zeros((self.model.channels, self.model.length), np.float32)))
        for hook in hooks:
            hook.remove()
        return found

    @cached_property
    def _context(self) -> int:
        """Patches of context of a chunk: with twice as many, the output in the middle of noise is the same."""
        most = max(1, LONGEST_CONTEXT // self.patch)
        width, generator = 4 * most + 1, torch.Generator().manual_seed(0)
        shape = self.model.quantizer.code_shape((width,))
        codes = torch.randint(self.model.quantizer.num_embeddings, shape, generator=generator)
        noise = torch.randn(self.model.channels, width * self.patch, generator=generator).numpy()

        def middle(context: int) -> list[Tensor]:
            first, last = 2 * most - context, 2 * most + context + 1
            x = self._batch(noise[:, first * self.patch : last * self.patch])
            features = self.model.to_code(self.model.encoder(x))[0, :, context]
            signal = self.model.decode(codes[None, first:last])[0]
            return [features, signal[:, context * self.patch : (context + 1) * self.patch]]

        context, near = 2, middle(2)
        while context < most:
            far = middle(2 * context)
            if all((a - b).abs().max() < TOLERANCE * b.std() for a, b in zip(near, far, strict=True)):
                break
            context, near = 2 * context, far
        return context

    def _batch(self, x: np.ndarray) -> Tensor:
        return like_weights(torch.from_numpy(x)[None], self.model.to_code)


def fixed_scaling(standardize: str, statistics: list[list[float]] | None, channels: int) -> FixedScaling | None:
    """Return the scaling of data with ``standardize`` of a SignalDataModule; None if it depends on the record."""
    if standardize == "dataset" and statistics:
        mean, scale = np.array(statistics)[..., None]
        return FixedScaling(mean, scale)
    if standardize == "none":
        return FixedScaling(np.zeros((channels, 1)), np.ones((channels, 1)))
    return None
