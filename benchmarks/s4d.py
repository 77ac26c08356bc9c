"""Cost of S4D: the kernel compared with its formula, the layer compared with a GRU and a convolution.

    python benchmarks/s4d.py --shapes 256x1024 512x4096 256x16384

"materialised" computes every power of every mode, an array of H x N/2 x L complex numbers, as published code does
without its compiled extensions. A layer is S4D, GELU, a 1x1 convolution to 2 H and GLU; the GRU and the convolution
(k = 7) have the same width. All run forward and backward and take turns in one process on one thread. The values are
medians of CPU time; memory is the peak during a run above the state before.
"""

import argparse
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from measuring import CPU, peak_memory, race
from ratios import Ratio, processor, table
from torch import Tensor, nn

from vqlab.nn.ssm.s4d import S4D, fft_convolve

SHAPES = [(256, 1024), (512, 4096), (256, 16384)]
CONVOLUTION = "convolution, k = 7"


class Layer(nn.Module):
    """S4D, GELU, 1x1 convolution and GLU."""

    def __init__(self, ssm: nn.Module, width: int) -> None:
        super().__init__()
        self.ssm, self.mix = ssm, nn.Conv1d(width, 2 * width, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, L) to (B, H, L)."""
        return F.glu(self.mix(F.gelu(self.ssm(x))), 1)


class Materialised(S4D):
    """S4D with the kernel computed by its formula."""

    def kernel(self, length: int, rate: float = 1.0) -> Tensor:
        """Return K (H, length)."""
        dt_a = self.log_dt.exp()[:, None] * torch.complex(-self.log_neg_re.exp(), self.im)
        c = torch.complex(self.c_re[0], self.c_im[0]) * torch.expm1(dt_a) / dt_a * self.log_dt.exp()[:, None]
        powers = torch.exp(dt_a[..., None] * torch.arange(length))
        return 2 * torch.einsum("hm,hml->hl", c, powers).real

    def forward(self, x: Tensor, lengths: Tensor | None = None, rate: float = 1.0) -> Tensor:
        """(B, H, L) to (B, H, L)."""
        return self.d[:, None] * x + fft_convolve(x, self.kernel(x.shape[-1])[None])


class GRU(nn.Module):
    """A GRU over (B, H, L)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gru = nn.GRU(width, width, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, L) to (B, H, L)."""
        return self.gru(x.transpose(1, 2))[0].transpose(1, 2)


def main() -> None:
    """Print one table of kernels and one of layers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", nargs="+", type=parse_shape, default=SHAPES, metavar="HxL")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    torch.set_num_threads(1)
    kernels, layers = [], []
    for width, length in args.shapes:
        label = f"{width} x {length}"
        (ours, theirs), (peak, peak_theirs) = race_kernels(width, length, args.repeats)
        figures = [f"{1e3 * ours:.0f}", f"{theirs / ours:.1f}"]
        kernels.append([label, *figures, f"{peak / 2**20:.0f}", f"{peak_theirs / peak:.1f}"])
        seconds = race_layers(width, length, args.batch, args.repeats)
        best = min(seconds["fft"], seconds["scan"])
        layers.append([label, f"{1e3 * seconds['fft']:.0f}", *[f"{s / best:.2f}" for s in seconds.values()]])
        print(kernels[-1], layers[-1], flush=True)
    print(f"{processor()}, torch {torch.__version__}, 1 thread, batch {args.batch}, forward and backward\n")
    print(table(["kernel, H x L", "ms", "materialised / ours", "peak, MiB", "materialised / ours"], kernels))
    head = ["layer, H x L", "fft, ms", *seconds]
    print(f"\nRatios to the better of fft and scan:\n\n{table(head, layers)}")


def ratios(quick: bool) -> list[Ratio]:
    """Return the ratios of the kernel and of a layer, which uses the faster of its two convolutions."""
    repeats, found = (1, []) if quick else (3, [])
    for width, length in [(32, 256)] if quick else [(256, 1024), (512, 4096)]:
        (ours, theirs), (peak, peak_theirs) = race_kernels(width, length, repeats)
        what = f"`S4D`, the kernel, H x L = {width} x {length}"
        found.append(Ratio(what, "materialised", "time", theirs / ours))
        found.append(Ratio(what, "materialised", "memory", peak_theirs / peak))
        seconds = race_layers(width, length, 4, repeats)
        for peer in ("materialised", "GRU", CONVOLUTION):
            value = seconds[peer] / min(seconds["fft"], seconds["scan"])
            reason = "its receptive field is 7 samples" if peer == CONVOLUTION else ""
            found.append(Ratio(what.replace("the kernel", "a layer, batch 4"), peer, "time", value, reason))
    return found


def race_kernels(width: int, length: int, repeats: int) -> tuple[list[float], list[float]]:
    """Return CPU seconds and peak bytes of our kernel and of the materialised one."""
    torch.manual_seed(0)
    ours, theirs = S4D(width), Materialised(width)
    theirs.load_state_dict(ours.state_dict())
    with torch.no_grad():
        torch.testing.assert_close(ours.kernel(length), theirs.kernel(length), rtol=1e-3, atol=1e-4)
    runs = {name: back(m.kernel, length, m) for name, m in (("ours", ours), ("materialised", theirs))}
    peaks = [peak_memory(run, CPU) for run in runs.values()]
    return list(race(runs, repeats).values()), peaks


def race_layers(width: int, length: int, batch: int, repeats: int) -> dict[str, float]:
    """Return the CPU seconds of each layer."""
    x = torch.randn(batch, width, length)
    modules = {
        "fft": Layer(S4D(width), width),
        "scan": Layer(S4D(width), width),
        "materialised": Layer(Materialised(width), width),
        "GRU": GRU(width),
        CONVOLUTION: nn.Conv1d(width, width, 7, padding=3),
    }
    modules["fft"].ssm.scan_from, modules["scan"].ssm.scan_from = length + 1, 1
    return race({name: back(m, x, m) for name, m in modules.items()}, repeats)


def back(run: Callable[[Any], Tensor], argument: Any, module: nn.Module) -> Callable[[], None]:
    """Return ``run(argument)`` and its backward pass as a function without arguments."""

    def both() -> None:
        module.zero_grad()
        run(argument).square().mean().backward()

    return both


def parse_shape(text: str) -> tuple[int, int]:
    """Read 256x1024 as (H, L)."""
    width, length = map(int, text.split("x"))
    return width, length


if __name__ == "__main__":
    main()
