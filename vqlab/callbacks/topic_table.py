"""Topics as a table, as bars, and as a map."""

import csv
import html
import io
from pathlib import Path

from jinja2 import Environment, FileSystemLoader
from matplotlib.figure import Figure

from vqlab.experiments.text import align
from vqlab.metrics.topics.table import TopicTable

COLUMNS = 5  # panels in a row
PANELS = 40  # topics that are drawn, the most coherent ones


def as_csv(topics: TopicTable) -> str:
    """Return the table, one line per topic."""
    columns, rows = topics.table()
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([columns, *rows])
    return text.getvalue()


def as_text(topics: TopicTable) -> str:
    """Return the table as aligned text for the screen."""
    columns, rows = topics.table()
    return "\n".join(align([columns, *([str(cell) for cell in row] for row in rows)]))


def bars(topics: TopicTable) -> Figure:
    """Draw each topic's words and their probabilities."""
    count = min(len(topics.numbers), PANELS)
    rows = -(-count // COLUMNS)
    figure = Figure(figsize=(3 * COLUMNS, 2.4 * rows), dpi=80, layout="constrained")
    for k, axes in enumerate(figure.subplots(rows, COLUMNS, squeeze=False).flatten()):
        if k >= count:
            axes.axis("off")
            continue
        axes.barh(topics.words[k][::-1], topics.shares[k][::-1])
        axes.set_title(title(topics, k), fontsize=10)
        axes.tick_params(labelsize=8)
        axes.locator_params(axis="x", nbins=3)
    return figure


def title(topics: TopicTable, k: int) -> str:
    """Return the number and the coherence of the k-th topic."""
    coherence = "" if topics.coherence is None else f", NPMI {topics.coherence[k]:.2f}"
    return f"topic {topics.numbers[k]}{coherence}"


def topic_map(topics: TopicTable) -> str:
    """Return a self-contained HTML page: a circle per topic, and the words of the selected one."""
    spread = abs(topics.places).max() or 1.0
    sizes = topics.documents or [1] * len(topics.numbers)
    largest = max(*sizes, 1)
    circles, details = [], []
    for k, (x, y) in enumerate(topics.places / spread):
        place = {
            "x": f"{300 + 240 * x:.1f}",
            "y": f"{300 - 240 * y:.1f}",
            "r": f"{6 + 40 * (sizes[k] / largest) ** 0.5:.1f}",
        }
        circles.append({**place, "title": title(topics, k), "number": topics.numbers[k]})
        documents = "" if topics.documents is None else f"dominant in {topics.documents[k]} held-out documents"
        note = html.escape("; ".join(part for part in (documents, topics.remarks[k]) if part))
        words = [html.escape(word) for word in topics.words[k]]
        shares = [round(float(share), 5) for share in topics.shares[k]]
        details.append({"title": title(topics, k), "note": note, "words": words, "shares": shares})
    pages = Environment(loader=FileSystemLoader(Path(__file__).parent), autoescape=True, trim_blocks=True)
    return pages.get_template("topics.html").render(circles=circles, topics=details)
