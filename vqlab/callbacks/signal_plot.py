"""A picture of signals, their reconstructions and their codes."""

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

ROWS = 4  # signals that fit a page


def plot_signals(traces: dict[str, Tensor]) -> Figure:
    """Plot ``input`` and ``reconstruction`` (B, C, L) over each other, their difference, and ``indices`` (B, l, ...).

    The first signals are shown, of each the first channel; codes are bars whose colour is the code's number.
    """
    x, x_hat = (traces[name][:ROWS, 0].float().cpu() for name in ("input", "reconstruction"))
    codes = traces["indices"][:ROWS].cpu()
    figure = Figure(figsize=(10, 2.4 * len(x)), dpi=100, layout="constrained")
    grid = figure.subplots(2 * len(x), 1, sharex=True, squeeze=False, height_ratios=[6, 1] * len(x))[:, 0]
    low, high = x.min().item(), x.max().item()
    margin = 0.1 * max(high - low, 1e-6)
    top = max(1, int(codes.max()))
    for row, (signal, bars) in enumerate(zip(grid[::2], grid[1::2], strict=True)):
        overlay(signal, x[row], x_hat[row])
        signal.set_ylim(low - margin, high + margin)
        raster = codes[row].reshape(codes.shape[1], -1).T
        bars.imshow(raster, aspect="auto", extent=(0, x.shape[-1], 0, 1), cmap="twilight", vmin=0, vmax=top)
        bars.set(yticks=[], ylabel="codes")
    grid[0].legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=3, frameon=False, fontsize=8)
    grid[-1].set_xlabel("sample")
    return figure


def overlay(axes: Axes, x: Tensor, x_hat: Tensor) -> None:
    """Plot a signal (L,), its reconstruction and the difference."""
    error = (x_hat - x).square().mean().sqrt()
    axes.plot(x, color="0.55", linewidth=2, label="original")
    axes.plot(x_hat, color="tab:blue", linewidth=1, label="reconstruction")
    axes.plot(x_hat - x, color="tab:red", linewidth=0.7, alpha=0.8, label="difference")
    axes.set_title(f"root mean square of the difference {error:.3f}", fontsize=8, loc="left")
    axes.margins(x=0)
