"""The points of ``vqlab rate-distortion`` for images: tokenizers, priors of their codes, PCA, JPEG and WebP."""

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vqlab.cli.rate_distortion_curves import (
    BATCH,
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
from vqlab.metrics import JPEG, PCA, PCAEntropyCoded, PCALloydMax, WebP, psnr, ssim
from vqlab.models.prior.tokenizer import find_tokenizer
from vqlab.quantizers import IdentityQuantizer

WHAT = "images"
UNITS = (Unit("bits per image", "bits_per_image", 1), Unit("PSNR, dB", "psnr", 2), Unit("SSIM", "ssim", 4))
NOTES = """\
PSNR and SSIM are means over the images. An entropy-coded rate is the cross-entropy of the symbols under their
frequencies in the training images; with a prior, its negative log-likelihood of the codes. PCA is fitted to the
training images; its rates include those of the models. Of JPEG and WebP no headers are counted: of JPEG the bytes of
the scan (standard Huffman tables, 4:2:0), of WebP those of the VP8 frame after its header."""
RATES = (1 / 16, 1 / 8, 3 / 16, 1 / 4, 3 / 8)  # bits per pixel and channel of the PCA
JPEG_QUALITIES, WEBP_QUALITIES = (1, 5, 10, 15, 25, 35), (0, 5, 10, 20, 30)
TRAIN_IMAGES = 25_000  # for the PCA and the frequencies of codes


def measure(checkpoints: Sequence[Path], split: str, options: Sequence[str]) -> tuple[list[Point], str]:
    """Return the points of the models, then of the classical coders, and a sentence on the images.

    Raises:
        UserError: If a model has no codes, the data have no such split, or the checkpoints differ in their images.
    """
    points: list[Point] = []
    train, test, about = torch.empty(0), torch.empty(0), ""
    for path, name in zip(checkpoints, names_of(checkpoints), strict=True):
        model, data = trained(path, options)
        tokenizer = find_tokenizer(model)
        if isinstance(tokenizer.quantizer, IdentityQuantizer):
            raise UserError(f"{path} has no codes (IdentityQuantizer): give a checkpoint with another quantizer")
        parts = splits_of(data, split, "images")
        own_train, own_test = (
            read(data, part, "image", n) for part, n in zip(parts, (TRAIN_IMAGES, None), strict=True)
        )
        images = [model.value_range.decode(x) for x in (own_train, own_test)]
        same = [
            a.shape == b.shape and torch.allclose(a, b, atol=1e-5) for a, b in zip((train, test), images, strict=True)
        ]
        if about and not all(same):
            raise UserError(
                f"{path} has other images than {checkpoints[0]}: give checkpoints of the same data and size"
            )
        train, test = images
        shape = " x ".join(map(str, test.shape[1:]))
        about = f"{len(test):,} {split} images of {type(data).__name__}, {shape}; {len(train):,} training images"
        label = f"{type(model).__name__} {name}"
        if tokenizer is model:
            points += model_points(label, model, own_train, own_test, test)
        else:
            points.append(prior_point(label, model, own_test, test))
    models = [point.values[0] for point in points if point.kind == "fixed rate"]
    return [*points, *classical_points(train, test, models)], about


def model_points(name: str, model: Any, train: Tensor, test: Tensor, images: Tensor) -> list[Point]:
    """Return the points at a fixed rate, then entropy-coded; ``train`` and ``test`` in the model's value range."""
    quantizer, bits = model.quantizer, math.log2(model.quantizer.num_embeddings)
    fixed, coded = [], []
    for _ in code_depths(quantizer):
        of_train, of_test = (in_batches(model.encode, x, model.device) for x in (train, test))
        distortion = distortion_of(decoded(model, of_test), images)
        fixed.append(Point(name, "fixed rate", (of_test[0].numel() * bits, *distortion)))
        rate = cross_entropy(of_train, of_test, quantizer) / len(test)
        coded.append(Point(name, "entropy-coded", (rate, *distortion)))
    return fixed + coded


def prior_point(name: str, prior: Any, test: Tensor, images: Tensor) -> Point:
    """Return the point of a tokenizer whose codes take the bits of their likelihood under a prior, without labels."""
    bits = in_batches(prior.nll, test, prior.device).mean().item() / math.log(2)
    x_hat = decoded(prior, in_batches(prior.encode, test, prior.device))
    return Point(name, "entropy-coded", (bits, *distortion_of(x_hat, images)))


def classical_points(train: Tensor, test: Tensor, rates: Sequence[float]) -> Iterator[Point]:
    """Yield the points of PCA, at its own rates and ``rates`` in bits per image, and of JPEG and WebP."""
    pca = PCA(train)
    coders: list[Any] = [PCALloydMax(pca), PCAEntropyCoded(pca)]
    for coder in coders:
        for rate in sorted({*rates, *(rate * test[0].numel() for rate in RATES)}):
            coded = coder.code(test, rate)
            yield Point("PCA", coder.kind, (coded.bits_per_image, *distortion_of(coded.x_hat, test)))
    codecs: list[tuple[Any, Sequence[int]]] = [(JPEG(), JPEG_QUALITIES), (WebP(), WEBP_QUALITIES)]
    for codec, qualities in codecs if test.shape[1] in (1, 3) else []:
        for quality in qualities:
            coded = codec.code(test, quality)
            yield Point(type(codec).__name__, codec.kind, (coded.bits_per_image, *distortion_of(coded.x_hat, test)))


def decoded(model: Any, codes: Tensor) -> Tensor:
    """Return the images (N, C, H, W) in [0, 1] of ``codes`` (N, ...)."""
    return in_batches(lambda some: model.value_range.decode(model.decode(some).float()), codes, model.device)


def distortion_of(x_hat: Tensor, x: Tensor) -> tuple[float, float]:
    """Return PSNR in dB and SSIM, means over the images (N, C, H, W) in [0, 1]."""
    similar = [ssim(*pair) for pair in zip(x_hat.split(BATCH), x.split(BATCH), strict=True)]
    return psnr(x_hat, x).item(), torch.cat(similar).mean().item()
