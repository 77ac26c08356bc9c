"""Picture of how the use of the codes differs between classes and between positions."""

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from vqlab.metrics.codes import chance_divergence, pairwise_divergence, pairwise_overlap

FEW = 20  # classes up to which the matrices show numbers
TOP = 16  # most frequent codes of a class that are compared


def draw_statistics(histograms: dict[str, Tensor]) -> Figure:
    """Draw the divergence between each two ``class`` and ``position`` histograms (G, K), and the classes' top codes.

    If codes did not depend on class or position, the divergence would be that by chance, which the titles give.
    """
    panels = [("class", True), ("class", False)] * ("class" in histograms) + [("position", True)]
    figure = Figure(figsize=(5.2 * len(panels), 5), dpi=100, layout="constrained")
    for axes, (group, is_divergence) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        counts = histograms[group].cpu()
        counts = counts[counts.sum(1) > 0]
        if is_divergence:
            matrix, title = pairwise_divergence(counts), f"JS divergence between {group} pairs, bits"
            chance = float(chance_divergence(counts)) * len(counts) / max(1, len(counts) - 1) / 2  # of two histograms
            note = f"mean {off_diagonal(matrix):.3f}, by chance about {chance:.3f}"
        else:
            top = min(TOP, counts.shape[1])
            matrix, title = pairwise_overlap(counts, top), f"fraction of the {top} top codes in common"
            note = f"mean {off_diagonal(matrix):.3f}"
        axes.set_title(f"{title}\n{note}", fontsize=10)
        axes.set(xlabel=group, ylabel=group)
        figure.colorbar(axes.imshow(matrix.numpy(), cmap="viridis", vmin=0), ax=axes, shrink=0.8)
        if len(matrix) <= FEW:
            write_numbers(axes, matrix)
    return figure


def off_diagonal(matrix: Tensor) -> float:
    """Return the mean of the elements (G, G) outside the diagonal, 0 for fewer than two groups."""
    size = len(matrix)
    return float((matrix.sum() - matrix.trace()) / max(1, size * (size - 1)))


def write_numbers(axes: Axes, matrix: Tensor) -> None:
    """Write each element (G, G) into its square."""
    highest = float(matrix.max())
    digits = 2 if highest > 0.1 else 3
    axes.set(xticks=range(len(matrix)), yticks=range(len(matrix)))
    for row, values in enumerate(matrix.tolist()):
        for column, value in enumerate(values):
            color = "black" if value > 0.6 * highest else "white"
            number = f"{value:.{digits}f}".removeprefix("0")
            axes.text(column, row, number, ha="center", va="center", fontsize=7, color=color)
