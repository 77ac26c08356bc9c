"""All comparisons of speed and memory with other implementations, in one table of ratios.

    python benchmarks/run.py                       # all, on one core; needs `uv pip install --group bench`
    python benchmarks/run.py --only s4d coherence
    python benchmarks/run.py --readme              # replace the table between the markers in docs/results/speed.md

Each file is measured in a new process, one after the other, so that none reuses the memory of another. The data are
generated, or come with vqlab's dependencies.
"""

import argparse
import importlib
import logging
import multiprocessing
import platform
import sys
import warnings
from concurrent.futures import ProcessPoolExecutor
from importlib.metadata import PackageNotFoundError, version
from math import isfinite
from pathlib import Path

from ratios import Ratio, processor, table

from vqlab.atomic_io import write_atomic
from vqlab.errors import UserError

# Files of this folder with a function `ratios`, and the packages that they compare vqlab with.
COMPARISONS: dict[str, tuple[str, ...]] = {
    "quantizers": ("vector-quantize-pytorch",),
    "vqgan_step": (),
    "jsa_step": (),
    "s4d": (),
    "sgan": (),
    "gan_topic": (),
    "coherence": ("gensim",),
}
BEGIN, END = "<!-- benchmarks: begin -->", "<!-- benchmarks: end -->"
PAGE = Path(__file__).parents[1] / "docs/results/speed.md"


def main() -> None:
    """Measure, print the table, and with ``--readme`` write it into the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", default=list(COMPARISONS), metavar="NAME", help=", ".join(COMPARISONS))
    parser.add_argument("--quick", action="store_true", help="small sizes, one repeat: not meaningful")
    parser.add_argument("--readme", type=Path, nargs="?", const=PAGE, metavar="FILE", help="page to update")
    options = parser.parse_args()
    require_known(options.only)
    require_peers(options.only)
    if options.readme:
        replace_table(options.readme, "")  # fail before the measurement, which takes an hour
    found: list[Ratio] = []
    # spawn, because a fork would inherit the memory of this process
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), max_tasks_per_child=1) as processes:
        for name in options.only:
            print(f"{name} ...", file=sys.stderr, flush=True)
            found += processes.submit(measure, name, options.quick).result()
    text = f"{caption(options.only)}\n\n{to_markdown(found)}"
    print(text)
    if options.readme:
        with write_atomic(options.readme, "--readme") as file:
            file.write(replace_table(options.readme, text).encode())


def require_known(names: list[str]) -> None:
    """Raise UserError if one of ``names`` is not a comparison."""
    unknown = [name for name in names if name not in COMPARISONS]
    if unknown:
        raise UserError(f"there is no comparison {', '.join(unknown)}: set --only to some of {', '.join(COMPARISONS)}")


def require_peers(names: list[str]) -> None:
    """Raise UserError if a package that one of ``names`` needs is not installed."""
    missing = [peer for peer in peers_of(names) if version_of(peer) is None]
    if missing:
        raise UserError(
            f"{', '.join(missing)} is not installed: run `uv pip install --group bench`, or choose others with --only"
        )


def measure(name: str, quick: bool) -> list[Ratio]:
    """Return the ratios of one file; runs in a new process."""
    import torch

    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    benchmark = importlib.import_module(name)
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)  # Lightning's import sets it to INFO
    ratios: list[Ratio] = benchmark.ratios(quick)
    return ratios


def caption(names: list[str]) -> str:
    """Return the processor and the versions with which the table was measured."""
    packages = ["torch", *peers_of(names)]
    versions = ", ".join(f"{package} {version_of(package)}" for package in packages)
    return (
        f"How many times as much CPU time and memory others take as vqlab, one thread of an {processor()}, Python "
        f"{platform.python_version()}, {versions}. Medians of interleaved repeats in one process; memory is the peak "
        "above the state before."
    )


def to_markdown(ratios: list[Ratio]) -> str:
    """Return a table with a row per part and peer, and a reason in each cell below 1."""
    lines: dict[tuple[str, str], dict[str, str]] = {}
    for ratio in ratios:
        lines.setdefault((ratio.what, ratio.peer), {})[ratio.measure] = to_cell(ratio)
    rows = [[*key, cells.get("time", ""), cells.get("memory", "")] for key, cells in lines.items()]
    return table(["", "compared with", "times the CPU time", "times the memory"], rows)


def to_cell(ratio: Ratio) -> str:
    """Return the ratio, with the reason if it is below 1; empty if the system does not report memory."""
    if not isfinite(ratio.value):
        return ""
    figure = f"{ratio.value:.2f}" if ratio.value < 10 else f"{ratio.value:.0f}"
    return figure if float(figure) >= 1 else f"{figure} ({ratio.reason or 'unexplained'})"


def replace_table(page: Path, text: str) -> str:
    """Return the content of ``page`` with ``text`` between the markers.

    Raises:
        UserError: If the file does not exist or has no markers.
    """
    if not page.is_file():
        raise UserError(f"{page} is not a file: set --readme to a file with {BEGIN} and {END}")
    before, begin, rest = page.read_text().partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise UserError(f"{page} lacks {BEGIN} and {END}: add each on its own line, with the table between them")
    return f"{before}{BEGIN}\n\n{text}\n\n{END}{after}"


def peers_of(names: list[str]) -> list[str]:
    """Return the packages that ``names`` compare vqlab with."""
    return list(dict.fromkeys(peer for name in names for peer in COMPARISONS[name]))


def version_of(package: str) -> str | None:
    """Return the version of a package, or None if it is not installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
