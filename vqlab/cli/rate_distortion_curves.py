"""The points of ``vqlab rate-distortion``, measured on one split, and their plot."""

import io
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor

from vqlab.cli.lightning import ALWAYS, CLI, prepare
from vqlab.cli.run_folder import run_of, with_run_config
from vqlab.errors import UserError
from vqlab.experiments.text import printable
from vqlab.metrics import PCM, KLTEntropyCoded, KLTLloydMax, WaveletEntropyCoded
from vqlab.metrics.signal import prd, snr
from vqlab.quantizers import IdentityQuantizer, Quantizer, ResidualQuantizer

RATES = (0.25, 0.5, 1, 2, 4, 8)  # bits per sample of the classical coders
BLOCK = 64  # largest block of the KLT, in samples
BATCH = 256
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")  # Okabe and Ito 2008
MARKERS = "os^Dv<"  # not as many as colours: a repeated colour has another marker


@dataclass(frozen=True)
class Point:
    """Rate and distortion of a coder, means over the windows."""

    coder: str
    kind: str  # "fixed rate" or "entropy-coded"
    bits_per_sample: float  # of one channel
    snr: float  # dB
    prd: float  # per cent


class Trained(CLI):
    """Build data and model of a checkpoint as ``vqlab test`` does, and run nothing."""

    def _run_subcommand(self, subcommand: str) -> None:
        self._check_checkpoint(self._get(self.config, "ckpt_path"))


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
        own_train, own_test = windows(data, split)
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


def trained(path: Path, options: Sequence[str]) -> tuple[Any, Any]:
    """Return the model of a checkpoint, in eval mode, and its data."""
    prepare()
    with ExitStack() as held:
        cli = Trained(args=with_run_config(["test", f"--ckpt_path={path}", *options], ALWAYS), held=held)
    return cli.model.to("cuda" if torch.cuda.is_available() else "cpu").eval(), cli.datamodule


def names_of(checkpoints: Sequence[Path]) -> list[str]:
    """Return run folder and file of each checkpoint, or the whole paths if these are not different."""
    names = [f"{run.name}/{path.stem}" if (run := run_of(path)) else path.stem for path in checkpoints]
    return names if len({*names}) == len(names) else [*map(str, checkpoints)]


def windows(data: Any, split: str) -> list[Tensor]:
    """Return all windows (N, C, L) of the training split and of ``split``, in order."""
    train, val = data.load_train_val()
    if (found := val if split == "val" else data.load_test()) is None:
        raise UserError(f"{type(data).__name__} has no test windows: set --split val")
    collate = data.collate()

    def read(part: Any) -> Tensor:
        places = torch.arange(len(part)).split(BATCH)
        return torch.cat([collate(part.__getitems__(some.tolist()))["signal"] for some in places])

    return [read(train), read(found)]


def model_points(name: str, model: Any, train: Tensor, test: Tensor) -> Iterator[Point]:
    """Yield the points of a model at a fixed rate and entropy-coded, with 1, 2, 4, ... and all codes of a position."""
    quantizer, bits = model.quantizer, math.log2(model.quantizer.num_embeddings)
    features = [in_batches(torch.nn.Sequential(model.encoder, model.to_code), x, model.device) for x in (train, test)]
    depths = len(quantizer.parts) if isinstance(quantizer, ResidualQuantizer) else 1
    for number in [*(2**power for power in range((depths - 1).bit_length())), depths]:
        quantizer.depths = number  # of a residual quantizer: as many codes for each position
        of_train, of_test = (in_batches(quantizer.encode, z, model.device) for z in features)
        distortion = distortion_of(in_batches(model.decode, of_test, model.device), test)
        yield Point(name, "fixed rate", of_test[0].numel() * bits / test[0].numel(), *distortion)
        yield Point(name, "entropy-coded", cross_entropy(of_train, of_test, quantizer) / test.numel(), *distortion)


def cross_entropy(train: Tensor, test: Tensor, quantizer: Quantizer) -> float:
    """Return the bits of indices ``test`` (B, l, ...) under the frequencies, plus one, of those of each codebook."""
    size = quantizer.num_embeddings
    codebooks = math.prod(test.shape[test.ndim - quantizer.index_dims :])
    train, test = train.reshape(-1, codebooks), test.reshape(-1, codebooks)
    first = size * torch.arange(codebooks)
    counts = torch.bincount((train + first).flatten(), minlength=size * codebooks).double() + 1
    return (math.log2(len(train) + size) - counts.log2()[test + first]).sum().item()


def classical_points(train: Tensor, test: Tensor) -> Iterator[Point]:
    """Yield the points of PCM, the KLT and wavelets."""
    block = max(size for size in range(1, BLOCK + 1) if train.shape[-1] % size == 0)
    coders: list[tuple[str, Any]] = [("PCM", PCM()), (f"KLT-{block}", KLTLloydMax(block))]
    coders += [(f"KLT-{block}", KLTEntropyCoded(block)), ("wavelet 9/7", WaveletEntropyCoded())]
    for name, coder in coders:
        coder.fit(train)
        for rate in (rate for rate in RATES if name != "PCM" or rate >= 1):
            coded = coder.code(test, rate)
            yield Point(name, coder.kind, coded.bits_per_sample, *distortion_of(coded.x_hat, test))


def distortion_of(x_hat: Tensor, x: Tensor) -> tuple[float, float]:
    """Return SNR in dB and PRD in per cent."""
    return snr(x_hat.float(), x).mean().item(), prd(x_hat.float(), x).mean().item()


@torch.no_grad()
def in_batches(function: Callable[[Tensor], Tensor], x: Tensor, device: torch.device) -> Tensor:
    """Return ``function`` of ``x`` (N, ...), on the CPU."""
    return torch.cat([function(part.to(device)).cpu() for part in x.split(BATCH)])


def draw(points: Sequence[Point]) -> bytes:
    """Return a PNG: SNR over bits per sample, a colour and marker per coder, dashed and hollow if entropy-coded."""
    coders = [*dict.fromkeys(point.coder for point in reversed(points))]  # the classical ones keep their colours
    curves = [*dict.fromkeys((point.coder, point.kind) for point in points)]
    figure = Figure(figsize=(4.6, 4.2 + 0.21 * len(curves)), dpi=200, layout="constrained")
    axes = figure.subplots()
    for coder, kind in curves:
        number, curve = coders.index(coder), [p for p in points if (p.coder, p.kind) == (coder, kind)]
        axes.plot(
            [point.bits_per_sample for point in curve],
            [point.snr for point in curve],
            color=COLOURS[number % len(COLOURS)],
            marker=MARKERS[number % len(MARKERS)],
            markersize=5,
            markerfacecolor=None if kind == "fixed rate" else "white",
            linestyle="-" if kind == "fixed rate" else "--",
            label=f" {printable(coder)[-40:]}, {kind}".replace("$", r"\$"),
        )
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter("{x:g}")
    axes.set(xlabel="bits per sample", ylabel="SNR, dB")
    axes.grid(linewidth=0.4)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside lower center", frameon=False, handlelength=3)
    content = io.BytesIO()
    figure.savefig(content, format="png")
    return content.getvalue()
