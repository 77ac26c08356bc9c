"""Time and memory of a training step of a quantizer, relative to the product of vectors and codes.

    python benchmarks/quantizers.py --shapes 4096x64x1024 4096x64x8192

A step is the forward pass, the backward pass to input and codebook, and the update of running means, in training mode.
All contestants take turns in one process on one thread; a ratio is a median over the median of ``torch.mm(z, E.T)``
into allocated memory. Time is CPU or GPU time. Memory is the peak during a step above the state before, in units of one
N x K float32 array.
"""

import argparse
import importlib.util
import sys
from collections.abc import Callable

import torch
from measuring import CPU, peak_memory, race
from peers import Diffusers, Lucidrains, Taming
from ratios import Ratio, processor, table
from torch import Tensor, nn

from vqlab.quantizers.vector import VectorQuantizer

SHAPES = [
    *[(4096, 64, 512), (4096, 64, 1024), (4096, 256, 1024), (16384, 64, 1024), (16384, 256, 1024)],
    *[(4096, 64, 8192), (4096, 256, 8192), (4096, 64, 16384), (4096, 64, 32768), (4096, 8, 16384)],
]
POSITIONS = 256  # vectors of one sample: a map of 16 x 16


class Ours(nn.Module):
    """One of vqlab's quantizers, returning (quantized, loss)."""

    def __init__(self, quantizer: nn.Module) -> None:
        super().__init__()
        self.quantizer = quantizer

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Quantize ``z`` (B, D, H, W)."""
        out = self.quantizer(z)
        return out.quantized, out.loss


# From (K, D) to a module that takes maps (B, D, H, W); one line each.
CONTESTANTS: dict[str, Callable[[int, int], nn.Module]] = {
    "vqlab EMA": lambda k, d: Ours(VectorQuantizer(k, d)),
    "vqlab loss": lambda k, d: Ours(VectorQuantizer(k, d, codebook_update="loss")),
    "diffusers-type": Diffusers,
    "taming-type": Taming,
    "lucidrains": Lucidrains,
}


def main() -> None:
    """Print one table of times and one of memory."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", nargs="+", type=parse_shape, default=SHAPES, metavar="NxDxK")
    parser.add_argument("--repeats", type=int, default=5, help="minimum per shape; small shapes get more")
    parser.add_argument("--only", nargs="+", default=list(CONTESTANTS), choices=list(CONTESTANTS))
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    if "lucidrains" in args.only and importlib.util.find_spec("vector_quantize_pytorch") is None:
        print("vector-quantize-pytorch is not installed, so lucidrains is left out\n")
        args.only.remove("lucidrains")
    torch.set_num_threads(1)

    times, memories = [], []
    for shape in args.shapes:
        label = " x ".join(map(str, shape))
        product, multiples, peaks = measure(*shape, args.only, args.repeats, torch.device(args.device))
        times.append([label, f"{product * 1e3:.1f}", *(f"{multiple:.2f}" for multiple in multiples)])
        memories.append([label, *(f"{peak:.3f}" for peak in peaks)])
        print(f"{label}: {dict(zip(args.only, times[-1][2:], strict=True))}", file=sys.stderr)
    chip = torch.cuda.get_device_name() if args.device.startswith("cuda") else processor()
    print(f"{chip}, torch {torch.__version__}, {torch.get_num_threads()} thread\n")
    print(table(["N x D x K", "mm, ms", *args.only], times))
    print("\nExtra memory, in N x K float32 arrays:\n")
    print(table(["N x D x K", *args.only], memories))


def ratios(quick: bool) -> list[Ratio]:
    """Return what the peers' steps take, as multiples of that of vqlab's default."""
    ours, *peers = names = ["vqlab EMA", "diffusers-type", "taming-type", "lucidrains"]
    found = []
    for shape in [(4096, 64, 512)] if quick else [(4096, 64, 1024), (16384, 256, 1024), (4096, 64, 8192)]:
        _, times, peaks = measure(*shape, names, 1 if quick else 5, CPU)
        seconds, memory = dict(zip(names, times, strict=True)), dict(zip(names, peaks, strict=True))
        for peer in peers:
            what = "`VectorQuantizer`, a step, N x D x K = " + " x ".join(map(str, shape))
            called = "vector-quantize-pytorch" if peer == "lucidrains" else peer
            found.append(Ratio(what, called, "time", seconds[peer] / seconds[ours]))
            found.append(Ratio(what, called, "memory", memory[peer] / memory[ours]))
    return found


def measure(
    rows: int, dim: int, codes: int, names: list[str], repeats: int, device: torch.device
) -> tuple[float, list[float], list[float]]:
    """Return the seconds of the bare product, and each contestant's ratio to it and extra memory."""
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(rows, dim, generator=generator).to(device)
    codebook = torch.randn(codes, dim, generator=generator).to(device)
    maps = z.view(-1, POSITIONS, dim).transpose(1, 2).reshape(-1, dim, 16, POSITIONS // 16)
    sequences = z.view(-1, POSITIONS, dim)
    steps = []
    for name in names:
        torch.manual_seed(0)
        module = CONTESTANTS[name](codes, dim).to(device).train()
        steps.append(step_of(module, sequences if name == "lucidrains" else maps))
    for step in steps:
        for _ in range(2):
            step()  # initialise
    peaks = [peak_memory(step, device) / (4 * rows * codes) for step in steps]

    out = torch.empty(rows, codes, device=device)
    repeats = max(repeats, min(50, 10**9 // (rows * dim * codes) * repeats))
    contestants = {"product": lambda: torch.mm(z, codebook.T, out=out)} | dict(zip(names, steps, strict=True))
    product, *others = race(contestants, repeats, device).values()
    return product, [other / product for other in others], peaks


def step_of(module: nn.Module, z: Tensor) -> Callable[[], None]:
    """Return one training step on ``z`` as a function without arguments."""
    z = z.clone().requires_grad_()
    gradient = torch.randn_like(z)

    def step() -> None:
        z.grad = None
        module.zero_grad()
        quantized, loss = module(z)
        torch.autograd.backward((quantized, loss), (gradient, torch.ones_like(loss)))

    return step


def parse_shape(text: str) -> tuple[int, int, int]:
    """Read 4096x64x1024 as (N, D, K)."""
    rows, dim, codes = map(int, text.split("x"))
    if rows % POSITIONS:
        raise argparse.ArgumentTypeError(f"N must be a multiple of {POSITIONS}, got {rows}")
    return rows, dim, codes


if __name__ == "__main__":
    main()
