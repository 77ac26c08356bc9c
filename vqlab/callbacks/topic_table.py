"""Topics as a table, as bars, and as a map."""

import csv
import html
import io
import json
from typing import Any

from matplotlib.figure import Figure

from vqlab.metrics.topics.table import TopicTable

COLUMNS = 5  # panels in a row
PANELS = 40  # topics that are drawn, the most coherent ones

PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>Topics</title><style>
:root {{ color-scheme: light dark; --ink: #222; --paper: #fff; --dot: #3b73b9; --on: #d9662c }}
@media (prefers-color-scheme: dark) {{ :root {{ --ink: #ddd; --paper: #161616; --dot: #6fa3e0; --on: #f0975f }} }}
body {{ margin: 1rem; font: 16px/1.4 system-ui, sans-serif; color: var(--ink); background: var(--paper) }}
main {{ display: flex; flex-wrap: wrap; gap: 1rem }}
svg {{ flex: 1 1 22rem; max-width: 44rem; height: auto; border: 1px solid #8886 }}
section {{ flex: 1 1 18rem }}
circle {{ fill: var(--dot); fill-opacity: .45; stroke: var(--dot); cursor: pointer }}
circle.on {{ fill: var(--on); stroke: var(--on) }}
text {{ fill: var(--ink); font-size: 13px; text-anchor: middle; dominant-baseline: central; pointer-events: none }}
.bar {{ display: grid; grid-template-columns: 8rem 1fr; gap: .5rem; align-items: center }}
.bar i {{ display: block; height: .9rem; background: var(--on) }}
</style></head><body><h1>Topics</h1>
<p>Topics near each other share words (Jensen-Shannon distances, scaled to two dimensions); the area is the share of the
held-out documents. Choose one by pointer or Tab.</p>
<main><svg viewBox="0 0 600 600" role="img" aria-label="Map of topics">{circles}</svg>
<section id="topic" aria-live="polite"></section></main>
<script>
const topics = {topics};
const bar = (word, share, top) =>
  `<div class="bar"><span>${{word}}</span><i style="width:${{100 * share / top}}%"></i></div>`;
function show(k) {{
  document.querySelectorAll("circle").forEach((c, i) => c.classList.toggle("on", i == k));
  const t = topics[k];
  document.getElementById("topic").innerHTML = `<h2>${{t.title}}</h2><p>${{t.note}}</p>` +
    t.words.map((w, i) => bar(w, t.shares[i], t.shares[0])).join("");
}}
document.querySelectorAll("circle").forEach((c, i) => {{ c.onmouseenter = c.onfocus = c.onclick = () => show(i) }});
show(0);
</script></body></html>
"""


def as_csv(topics: TopicTable) -> str:
    """Return the table, one line per topic."""
    columns, rows = topics.table()
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(rows)
    return text.getvalue()


def as_text(topics: TopicTable) -> str:
    """Return the table as aligned text for the screen."""
    columns, rows = topics.table()
    cells = [columns, *([str(cell) for cell in row] for row in rows)]
    widths = [max(len(line[i]) for line in cells) for i in range(len(columns))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in cells
    )


def bars(topics: TopicTable) -> Figure:
    """Draw each topic's words and their probabilities."""
    count = min(len(topics.numbers), PANELS)
    rows = -(-count // COLUMNS)
    figure = Figure(figsize=(3 * COLUMNS, 2.4 * rows), dpi=80, layout="constrained")
    panels = figure.subplots(rows, COLUMNS, squeeze=False).flatten()
    for k, axes in enumerate(panels):
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
    circles: list[str] = []
    details: list[dict[str, Any]] = []
    for k, (x, y) in enumerate(topics.places / spread):
        across, down = 300 + 240 * x, 300 - 240 * y
        radius = 6 + 40 * (sizes[k] / largest) ** 0.5
        circles.append(
            f'<circle cx="{across:.1f}" cy="{down:.1f}" r="{radius:.1f}" tabindex="0" role="button" '
            f'aria-label="{title(topics, k)}"/><text x="{across:.1f}" y="{down:.1f}">{topics.numbers[k]}</text>'
        )
        documents = "" if topics.documents is None else f"dominant in {topics.documents[k]} held-out documents"
        note = "; ".join(part for part in (documents, topics.remarks[k]) if part)
        words = [html.escape(word) for word in topics.words[k]]
        shares = [round(float(share), 5) for share in topics.shares[k]]
        details.append({"title": title(topics, k), "note": html.escape(note), "words": words, "shares": shares})
    data = json.dumps(details).replace("<", "\\u003c")  # no word may end the script
    return PAGE.format(circles="".join(circles), topics=data)
