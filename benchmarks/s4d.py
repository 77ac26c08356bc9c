"""What an S4D layer costs: its kernel against the formula as it stands, the layer against a GRU and a convolution.

    python benchmarks/s4d.py --shapes 256x1024 512x4096 256x16384

"materialised" computes every power of every mode, an array of H x N/2 x L complex numbers: what published code falls
back to where its compiled extensions are missing. A layer is S4D, GELU, a 1x1 convolution to 2 H and GLU; the GRU and
the convolution (k = 7) have the same width. All run forward and backward, take turns in one process on one thread, and
are given as medians of CPU time; memory is the highest during a run less that before it.
"""

import argparse
import statistics
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from quantizers import peak_memory, processor, stopwatch, table
from torch import Tensor, nn

from vqlab.nn.s4d import S4D
from vqlab.nn.state_space import fft_convolve

SHAPES = [(256, 1024), (512, 4096), (256, 16384)]
CPU = torch.device("cpu")


class Layer(nn.Module):
    """S4D and what stands behind it in a block."""

    def __init__(self, ssm: nn.Module, width: int) -> None:
        super().__init__()
        self.ssm, self.mix = ssm, nn.Conv1d(width, 2 * width, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, L) to (B, H, L)."""
        return F.glu(self.mix(F.gelu(self.ssm(x))), 1)


class Materialised(S4D):
    """S4D with the kernel's formula as it stands."""

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
        torch.manual_seed(0)
        ours, theirs = S4D(width), Materialised(width)
        theirs.load_state_dict(ours.state_dict())
        with torch.no_grad():
            torch.testing.assert_close(ours.kernel(length), theirs.kernel(length), rtol=1e-3, atol=1e-4)
        runs = [back(m.kernel, length, m) for m in (ours, theirs)]
        peaks = [peak_memory(run, CPU) / 2**20 for run in runs]
        seconds = race(runs, args.repeats)
        label = f"{width} x {length}"
        figures = [f"{1e3 * seconds[0]:.0f}", f"{seconds[1] / seconds[0]:.1f}"]
        kernels.append([label, *figures, f"{peaks[0]:.0f}", f"{peaks[1] / peaks[0]:.1f}"])

        x = torch.randn(args.batch, width, length)
        ssms = [S4D(width, convolution="fft"), S4D(width, convolution="scan"), Materialised(width)]
        modules = [*(Layer(ssm, width) for ssm in ssms), GRU(width), nn.Conv1d(width, width, 7, padding=3)]
        seconds = race([back(m, x, m) for m in modules], args.repeats)
        layers.append([label, f"{1e3 * seconds[0]:.0f}", *[f"{s / min(seconds[:2]):.2f}" for s in seconds]])
        print(kernels[-1], layers[-1], flush=True)
    print(f"{processor()}, torch {torch.__version__}, 1 thread, batch {args.batch}, forward and backward\n")
    print(table(["kernel, H x L", "ms", "materialised / ours", "peak, MiB", "materialised / ours"], kernels))
    head = ["layer, H x L", "fft, ms", "fft", "scan", "materialised", "GRU", "convolution, k = 7"]
    print(f"\nRatios to the better of fft and scan:\n\n{table(head, layers)}")


def back(run: Callable[[Any], Tensor], argument: Any, module: nn.Module) -> Callable[[], None]:
    """Return ``run(argument)`` and its backward pass as a function without arguments."""

    def both() -> None:
        module.zero_grad()
        run(argument).square().mean().backward()

    return both


def race(runs: list[Callable[[], None]], repeats: int) -> list[float]:
    """Return the median CPU seconds of each, which take turns."""
    seconds = [[stopwatch(run, CPU) for run in runs] for _ in range(repeats + 1)]
    return [statistics.median(column) for column in zip(*seconds[1:], strict=True)]


def parse_shape(text: str) -> tuple[int, int]:
    """Read 256x1024 as (H, L)."""
    width, length = map(int, text.split("x"))
    return width, length


if __name__ == "__main__":
    main()
