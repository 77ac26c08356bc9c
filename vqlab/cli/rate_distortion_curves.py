"""What ``vqlab rate-distortion`` shares for signals and images: its points, models and data, and the plot."""

import io
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from matplotlib.figure import Figure
from torch import Tensor

from vqlab.cli.lightning import ALWAYS, CLI, prepare
from vqlab.cli.run_folder import run_of, with_run_config
from vqlab.errors import UserError
from vqlab.experiments.text import printable
from vqlab.quantizers import Quantizer, ResidualQuantizer

BATCH = 256
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")  # Okabe and Ito 2008
MARKERS = "os^Dv<"  # not as many as colours: a repeated colour has another marker


class Unit(NamedTuple):
    """A column of the table: its title, its name in the csv file, and its digits."""

    title: str
    name: str
    digits: int


@dataclass(frozen=True)
class Point:
    """Rate and distortions of a coder: values of the columns."""

    coder: str
    kind: str  # such as "fixed rate" or "entropy-coded"
    values: tuple[float, ...]


class Trained(CLI):
    """Build data and model of a checkpoint as ``vqlab test`` does, and run nothing."""

    def _run_subcommand(self, subcommand: str) -> None:
        self._check_checkpoint(self._get(self.config, "ckpt_path"))


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


def splits_of(data: Any, split: str, examples: str) -> tuple[Any, Any]:
    """Return the training split and ``split`` of ``data``."""
    train, val = data.load_train_val()
    if (found := val if split == "val" else data.load_test()) is None:
        raise UserError(f"{type(data).__name__} has no test {examples}: set --split val")
    return train, found


def read(data: Any, split: Any, name: str, number: int | None = None) -> Tensor:
    """Return the entry ``name`` (N, ...) of the batches of a split, in order; of the first ``number`` examples."""
    collate = data.collate()
    places = torch.arange(len(split))[:number].split(BATCH)
    return torch.cat([collate(split.__getitems__(some.tolist()))[name] for some in places])


def code_depths(quantizer: Any) -> Iterator[int]:
    """Yield 1, 2, 4, ... and all codes of a position of a residual quantizer, which then encodes with as many."""
    depths = len(quantizer.parts) if isinstance(quantizer, ResidualQuantizer) else 1
    for number in [*(2**power for power in range((depths - 1).bit_length())), depths]:
        quantizer.depths = number
        yield number


def cross_entropy(train: Tensor, test: Tensor, quantizer: Any) -> float:
    """Return the bits of indices ``test`` (B, l, ...) under the frequencies, plus one, of those of each codebook."""
    size = quantizer.num_embeddings
    if isinstance(quantizer, Quantizer):
        codebooks = math.prod(test.shape[test.ndim - quantizer.index_dims :])
    else:  # of a JSA or DiscreteVAE
        codebooks = quantizer.num_codebooks
    train, test = train.reshape(-1, codebooks), test.reshape(-1, codebooks)
    first = size * torch.arange(codebooks)
    counts = torch.bincount((train + first).flatten(), minlength=size * codebooks).double() + 1
    return (math.log2(len(train) + size) - counts.log2()[test + first]).sum().item()


@torch.no_grad()
def in_batches(function: Callable[[Tensor], Tensor], x: Tensor, device: torch.device | str = "cpu") -> Tensor:
    """Return ``function`` of ``x`` (N, ...), on the CPU."""
    return torch.cat([function(part.to(device)).cpu() for part in x.split(BATCH)])


def draw(points: Sequence[Point], rate: Unit, distortion: Unit) -> bytes:
    """Return a PNG: distortion over rate, a colour and marker per coder, dashed and hollow unless of fixed rate."""
    coders = [*dict.fromkeys(point.coder for point in reversed(points))]  # the classical ones keep their colours
    curves = [*dict.fromkeys((point.coder, point.kind) for point in points)]
    figure = Figure(figsize=(4.6, 4.2 + 0.21 * len(curves)), dpi=200, layout="constrained")
    axes = figure.subplots()
    for coder, kind in curves:
        number, curve = coders.index(coder), [p.values for p in points if (p.coder, p.kind) == (coder, kind)]
        axes.plot(
            [values[0] for values in curve],
            [values[1] for values in curve],
            color=COLOURS[number % len(COLOURS)],
            marker=MARKERS[number % len(MARKERS)],
            markersize=5,
            markerfacecolor=None if kind == "fixed rate" else "white",
            linestyle="-" if kind == "fixed rate" else "--",
            label=f" {printable(coder)[-40:]}, {kind}".replace("$", r"\$"),
        )
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter("{x:g}")
    axes.set(xlabel=rate.title, ylabel=distortion.title)
    axes.grid(linewidth=0.4)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside lower center", frameon=False, handlelength=3)
    content = io.BytesIO()
    figure.savefig(content, format="png")
    return content.getvalue()
