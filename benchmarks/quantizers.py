"""Time and memory of a training step of a quantizer, as ratios to the bare product of vectors and codes.

    python benchmarks/quantizers.py --shapes 4096x64x1024 4096x64x8192

A step is forward, backward to the input and to the codebook, and the update of running means, in training mode. All
contestants take turns in one process on one thread; a ratio is a median over the median of ``torch.mm(z, E.T)`` into
memory that is already there. Time is the process's CPU time, or the GPU's. Memory is the highest during a step less
that before it, in units of one N x K float32 array.
"""

import argparse
import ctypes
import importlib.util
import platform
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from peers import Diffusers, Lucidrains, Taming
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
    parser.add_argument("--repeats", type=int, default=5, help="at least so many per shape; small shapes get more")
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
        product, ratios, peaks = measure(*shape, args.only, args.repeats, torch.device(args.device))
        times.append([label, f"{product * 1e3:.1f}", *(f"{ratio:.2f}" for ratio in ratios)])
        memories.append([label, *(f"{peak:.3f}" for peak in peaks)])
        print(f"{label}: {dict(zip(args.only, times[-1][2:], strict=True))}", file=sys.stderr)
    chip = torch.cuda.get_device_name() if args.device.startswith("cuda") else processor()
    print(f"{chip}, torch {torch.__version__}, {torch.get_num_threads()} thread\n")
    print(table(["N x D x K", "mm, ms", *args.only], times))
    print("\nExtra memory, in N x K float32 arrays:\n")
    print(table(["N x D x K", *args.only], memories))


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
    contestants = [lambda: torch.mm(z, codebook.T, out=out), *steps]
    repeats = max(repeats, min(50, 10**9 // (rows * dim * codes) * repeats))
    seconds = [[stopwatch(contestant, device) for contestant in contestants] for _ in range(repeats + 1)]
    product, *others = (statistics.median(column) for column in zip(*seconds[1:], strict=True))
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


def stopwatch(run: Callable[[], object], device: torch.device) -> float:
    """Return the seconds that ``run`` takes of the processor or of the GPU."""
    if device.type != "cuda":
        start = time.process_time()
        run()
        return time.process_time() - start
    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    begin.record()
    run()
    end.record()
    end.synchronize()
    return begin.elapsed_time(end) / 1e3


def peak_memory(run: Callable[[], object], device: torch.device) -> float:
    """Return the bytes that ``run`` holds at most beyond those held before; NaN where the system does not tell."""
    if device.type == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    if platform.system() != "Linux":
        return float("nan")
    before = start_peak()
    run()
    return resident("VmHWM") - before


def start_peak() -> int:
    """Make the present memory the highest so far, and return it in bytes (Linux)."""
    ctypes.CDLL(None).malloc_trim(0)  # pages kept for later would hide what a step takes
    Path("/proc/self/clear_refs").write_text("5")
    return resident("VmHWM")


def resident(name: str) -> int:
    """Return a line of this process's status in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(name + ":"):
            return int(line.split()[1]) * 1024
    raise KeyError(name)


def parse_shape(text: str) -> tuple[int, int, int]:
    """Read 4096x64x1024 as (N, D, K)."""
    rows, dim, codes = map(int, text.split("x"))
    if rows % POSITIONS:
        raise argparse.ArgumentTypeError(f"N must be a multiple of {POSITIONS}, got {rows}")
    return rows, dim, codes


def processor() -> str:
    """Return the processor's name."""
    info = Path("/proc/cpuinfo")
    names = (
        [line.split(":")[1] for line in info.read_text().splitlines() if "model name" in line] if info.exists() else []
    )
    return names[0].strip() if names else platform.machine()


def table(head: list[str], rows: list[list[str]]) -> str:
    """Return a Markdown table."""
    lines = [head, ["---"] + ["---:"] * (len(head) - 1), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


if __name__ == "__main__":
    main()
