"""Markdown tables and heat maps of the collapse suite's results."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from collapse_contestants import CONTESTANTS

matplotlib.use("Agg")  # no screen is needed
import matplotlib.pyplot as plt

Line = dict[str, Any]
SETTING = ("num_embeddings", "steps", "precision", "network")  # runs that differ here are not compared


class Figure(NamedTuple):
    """A metric: how to read it from a line, and how to show it."""

    title: str
    value: Callable[[Line], float]
    digits: int
    colour_limits: Callable[[int], tuple[float | None, float | None]]  # from K


FIGURES = (
    Figure("Codebook usage, %", lambda line: 100 * line["usage"], 1, lambda k: (0, 100)),
    Figure("Perplexity", lambda line: line["perplexity"], 0, lambda k: (0, k)),
    Figure("PSNR, dB", lambda line: line["psnr"], 2, lambda k: (None, None)),
)


class Grid:
    """The runs of one setting by contestant, learning rate and seed; of a repeated run the last line counts."""

    def __init__(self, lines: list[Line]) -> None:
        self.runs = {(line["contestant"], line["lr"], line["seed"]): line for line in lines}
        present = {name for name, _, _ in self.runs}
        self.names = [name for name in CONTESTANTS if name in present]
        self.lrs = sorted({lr for _, lr, _ in self.runs})
        self.seeds = sorted({seed for _, _, seed in self.runs})

    def values(self, figure: Figure, name: str, lr: float) -> list[float]:
        """Return the figure of every seed that finished with a finite loss."""
        lines = [self.runs.get((name, lr, seed), {}) for seed in self.seeds]
        return [figure.value(line) for line in lines if line.get("loss_finite")]

    def means(self, figure: Figure) -> np.ndarray:
        """Return the means over seeds (contestants, lrs), NaN where no run finished."""
        rows = [[self.values(figure, name, lr) for lr in self.lrs] for name in self.names]
        return np.array([[np.mean(cell) if cell else np.nan for cell in row] for row in rows])


def report(lines: list[Line], pca: dict[int, float], folder: Path) -> None:
    """Print the tables of ``lines``, with the PSNR of a PCA by K; write one heat map per K, steps and precision."""
    for setting in sorted({tuple(line[name] for name in SETTING) for line in lines}):
        grid = Grid([line for line in lines if tuple(line[name] for name in SETTING) == setting])
        k, steps, precision, network = setting
        seeds = ", ".join(map(str, grid.seeds))
        print(f"\n## K = {k}, {steps} steps, {precision}, network {network}, seeds {seeds}")
        for figure in FIGURES:
            print(f"\n{table(grid, figure)}")
        if k in pca:
            print(f"| PCA, Lloyd-Max, as many bits as one code of {k} per position | {pca[k]:.2f} |")
        for name, lr, seed in sorted(key for key, line in grid.runs.items() if not line.get("loss_finite")):
            line = grid.runs[name, lr, seed]
            why = line["error"].strip().splitlines()[-1] if "error" in line else "loss not finite"
            print(f"\nNo figures: {name}, lr {short(lr)}, seed {seed}: {why}")
        path = folder / f"collapse_{network}_{k}_{steps}_{precision}.png"
        heat_map(grid, f"K = {k}, {steps} steps, {precision}, network {network}, mean of seeds {seeds}", k, path)
        print(f"\n{path}")


def table(grid: Grid, figure: Figure) -> str:
    """Markdown: mean over seeds ± half the range; (n) where only n of the seeds have a figure."""
    header = f"| {figure.title} | " + " | ".join(f"lr {short(lr)}" for lr in grid.lrs) + " |"
    rows = [header, "|---|" + "---:|" * len(grid.lrs)]
    for name in grid.names:
        cells = [cell(grid.values(figure, name, lr), figure.digits, len(grid.seeds)) for lr in grid.lrs]
        rows.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(rows)


def cell(values: list[float], digits: int, seeds: int) -> str:
    """One cell of the table."""
    if not values:
        return ""
    text = f"{np.mean(values):.{digits}f}"
    if len(values) > 1:
        text += f" ± {(max(values) - min(values)) / 2:.{digits}f}"
    return text + (f" ({len(values)})" if len(values) < seeds else "")


def short(lr: float) -> str:
    """2.3e-3 rather than 0.0023."""
    mantissa, exponent = f"{lr:e}".split("e")
    return f"{float(mantissa):g}e{int(exponent)}"


def heat_map(grid: Grid, title: str, num_embeddings: int, path: Path) -> None:
    """Three panels, contestants x learning rates, the numbers in the cells; what is missing stays grey."""
    width, height = 3.4 + 3 * (0.75 * len(grid.lrs) + 0.9), 1.6 + 0.36 * len(grid.names)
    picture, panels = plt.subplots(1, 3, figsize=(width, height), sharey=True, layout="constrained")
    picture.suptitle(title)
    for panel, figure in zip(panels, FIGURES, strict=True):
        means = grid.means(figure)
        low, high = figure.colour_limits(num_embeddings)
        panel.set_facecolor("0.85")
        image = panel.imshow(means, cmap="viridis", vmin=low, vmax=high, aspect="auto")
        panel.set_title(figure.title, fontsize=11)
        panel.set_xticks(range(len(grid.lrs)), [short(lr) for lr in grid.lrs])
        panel.set_yticks(range(len(grid.names)), grid.names)
        panel.set_xlabel("learning rate")
        panel.tick_params(length=0)
        for (row, column), mean in np.ndenumerate(means):
            if not np.isnan(mean):
                ink = "black" if image.norm(mean) > 0.55 else "white"
                panel.text(column, row, f"{mean:.{figure.digits}f}", ha="center", va="center", color=ink, fontsize=9)
    picture.savefig(path, dpi=150)
    plt.close(picture)
