"""A plot of signals, their reconstructions and their codes."""

from matplotlib.figure import Figure
from torch import Tensor

ROWS = 4  # signals that are plotted


def plot_signals(signals: dict[str, Tensor]) -> Figure:
    """Plot ``input`` and ``reconstruction`` (B, C, L), their difference, and ``indices`` (B, l, ...).

    The first channel of the first signals is shown; the color of a bar is the number of the code.
    """
    x, x_hat = (signals[name][:ROWS, 0].float().cpu() for name in ("input", "reconstruction"))
    codes = signals["indices"][:ROWS].cpu()
    figure = Figure(figsize=(10, 2.4 * len(x)), dpi=100, layout="constrained")
    grid = figure.subplots(2 * len(x), 1, sharex=True, squeeze=False, height_ratios=[6, 1] * len(x))[:, 0]
    low, high = x.min().item(), x.max().item()
    margin = 0.1 * max(high - low, 1e-6)
    top = max(1, int(codes.max()))
    for row, (signal, bars) in enumerate(zip(grid[::2], grid[1::2], strict=True)):
        difference = x_hat[row] - x[row]
        signal.plot(x[row], color="0.55", linewidth=2, label="original")
        signal.plot(x_hat[row], color="tab:blue", linewidth=1, label="reconstruction")
        signal.plot(difference, color="tab:red", linewidth=0.7, alpha=0.8, label="difference")
        rms = difference.square().mean().sqrt()
        signal.set_title(f"root mean square of the difference {rms:.3f}", fontsize=8, loc="left")
        signal.set(ylim=(low - margin, high + margin))
        signal.margins(x=0)
        raster = codes[row].reshape(codes.shape[1], -1).T
        bars.imshow(raster, aspect="auto", extent=(0, x.shape[-1], 0, 1), cmap="twilight", vmin=0, vmax=top)
        bars.set(yticks=[], ylabel="codes")
    grid[0].legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=3, frameon=False, fontsize=8)
    grid[-1].set_xlabel("sample")
    return figure
