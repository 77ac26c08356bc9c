"""The points of ``vqlab rate-distortion`` for signals: S4DVQ, PCM, the KLT and wavelets."""

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vqlab.cli.rate_distortion_curves import (
    Point,
    Unit,
    code_depths,
    cross_entropy,
    in_batches,
    names_of,
    read,
    splits_of,
    trained,
)
from vqlab.errors import UserError
from vqlab.metrics import PCM, KLTEntropyCoded, KLTLloydMax, WaveletEntropyCoded
from vqlab.metrics.signal import prd, snr
from vqlab.quantizers import IdentityQuantizer

WHAT = "signals"
UNITS = (Unit("bits per sample", "bits_per_sample", 3), Unit("SNR, dB", "snr", 2), Unit("PRD, %", "prd", 1))
NOTES = """\
SNR and PRD are means over the windows. An entropy-coded rate is the cross-entropy of the symbols under their
frequencies in the training windows."""
RATES = (0.25, 0.5, 1, 2, 4, 8)  # bits per sample of the classical coders
BLOCK = 64  # largest block of the KLT, in samples


def measure(checkpoints: Sequence[Path], split: str, options: Sequence[str]) -> tuple[list[Point], str]:
    """Return the points of the models, then of the classical coders, and a sentence on the windows.

    Raises:
        UserError: If a model has no codes, the data have no such split, or the checkpoints differ in their windows.
    """
    points: list[Point] = []
    train, test, about = torch.empty(0), torch.empty(0), ""
    for path, name in zip(checkpoints, names_of(checkpoints), strict=True):
        model, data = trained(path, options)
        if isinstance(model.quantizer, IdentityQuantizer):
            raise UserError(f"{path} has no codes (quantizer=null): give a checkpoint of an S4DVQ with a quantizer")
        own_train, own_test = (read(data, part, "signal") for part in splits_of(data, split, "windows"))
        if about and not (torch.equal(train, own_train) and torch.equal(test, own_test)):
            raise UserError(
                f"{path} has other windows than {checkpoints[0]}: give checkpoints of the same data and length"
            )
        train, test = own_train, own_test
        about = (
            f"{len(test):,} {split} windows of {type(data).__name__}, {test.shape[1]} x {test.shape[2]} samples each"
        )
        about += f"; {len(train):,} training windows"
        points += sorted(model_points(f"S4DVQ {name}", model, train, test), key=lambda point: point.kind, reverse=True)
    return [*points, *classical_points(train, test)], about


def model_points(name: str, model: Any, train: Tensor, test: Tensor) -> Iterator[Point]:
    """Yield the points of a model at a fixed rate and entropy-coded, with 1, 2, 4, ... and all codes of a position."""
    quantizer, bits = model.quantizer, math.log2(model.quantizer.num_embeddings)
    features = [in_batches(torch.nn.Sequential(model.encoder, model.to_code), x, model.device) for x in (train, test)]
    for _ in code_depths(quantizer):
        of_train, of_test = (in_batches(quantizer.encode, z, model.device) for z in features)
        distortion = distortion_of(in_batches(model.decode, of_test, model.device), test)
        yield Point(name, "fixed rate", (of_test[0].numel() * bits / test[0].numel(), *distortion))
        yield Point(name, "entropy-coded", (cross_entropy(of_train, of_test, quantizer) / test.numel(), *distortion))


def classical_points(train: Tensor, test: Tensor) -> Iterator[Point]:
    """Yield the points of PCM, the KLT and wavelets."""
    block = max(size for size in range(1, BLOCK + 1) if train.shape[-1] % size == 0)
    coders: list[tuple[str, Any]] = [("PCM", PCM()), (f"KLT-{block}", KLTLloydMax(block))]
    coders += [(f"KLT-{block}", KLTEntropyCoded(block)), ("wavelet 9/7", WaveletEntropyCoded())]
    for name, coder in coders:
        coder.fit(train)
        for rate in (rate for rate in RATES if name != "PCM" or rate >= 1):
            coded = coder.code(test, rate)
            yield Point(name, coder.kind, (coded.bits_per_sample, *distortion_of(coded.x_hat, test)))


def distortion_of(x_hat: Tensor, x: Tensor) -> tuple[float, float]:
    """Return SNR in dB and PRD in per cent."""
    return snr(x_hat.float(), x).mean().item(), prd(x_hat.float(), x).mean().item()
