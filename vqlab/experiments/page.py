"""A report as one HTML file: it contains its pictures and curves, and loads nothing from a network."""

import base64
import time
from collections.abc import Iterator, Mapping, Sequence
from hashlib import sha256
from pathlib import Path

from vqlab.experiments.curves import COLOURS, DASHES, STYLE, Line, draw
from vqlab.experiments.markup import Markup, tag
from vqlab.experiments.report import Block, Curves, Folded, Heading, Pictures
from vqlab.experiments.run_files import read_picture
from vqlab.experiments.runs import Run
from vqlab.experiments.tables import Table

LONG = 60  # characters of a cell whose text wraps
STYLE_SHEET, SCRIPT = (Path(__file__).with_name(name) for name in ("page.css", "page.js"))


def html_page(title: str, blocks: Sequence[Block]) -> str:
    """Return the page; its Content-Security-Policy allows its own style, script and pictures, and nothing else."""
    style, script = Markup(STYLE_SHEET.read_text() + STYLE.read_text()), Markup(SCRIPT.read_text())
    policy = (
        f"default-src 'none'; style-src {digest(style)}; script-src {digest(script)}; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=policy),
        tag("meta", name="viewport", content="width=device-width,initial-scale=1"),
        tag("title", title),
        tag("link", rel="icon", href="data:,"),
        tag("style", style),
    )
    sections: list[list[Markup]] = [[]]
    for block in blocks:
        if isinstance(block, Heading) and block.level == 2:
            sections.append([])
        sections[-1] += block_html(block)
    body = tag(
        "body",
        tag("h1", title),
        tag("p", f"Read {time.strftime('%Y-%m-%d %H:%M')}", class_="soft"),
        *(tag("section", *section) for section in sections if section),
        tag("script", script),
    )
    return f"<!doctype html>\n{tag('html', head, body, lang='en')}\n"


def digest(content: str) -> str:
    """Return the name of an inline style or script in a Content-Security-Policy."""
    return f"'sha256-{base64.b64encode(sha256(content.encode()).digest()).decode()}'"


def block_html(block: Block) -> Iterator[Markup]:
    """Yield the elements of a block."""
    match block:
        case Heading(text, level):
            yield tag(f"h{level}", text)
        case str():
            yield tag("p", block)
        case Table():
            yield table_html(block)
        case Curves(lines):
            yield legend_html(lines)
            yield curves_html(lines)
        case Pictures(files):
            yield tag("div", *(picture_html(*file) for file in files), class_="grid")
        case Folded(title, content):
            inner = table_html(content) if isinstance(content, Table) else curves_html(content.lines)
            yield tag("details", tag("summary", title), inner)


def table_html(table: Table) -> Markup:
    """Return a table whose first column stays in sight."""
    head = [tag("th", name, title=hint) for name, hint in zip(table.names, table.hints, strict=True)]
    lines = []
    for line in table.lines:
        cells = []
        for shown, exact, best in line:
            text = "long" if len(shown) > LONG else "text" if shown != "-" else None
            kind = "best" if best else text if exact is None else None
            value = None if exact is None else repr(exact)
            cells.append(tag("td", shown, class_=kind, data_v=value, title=value))
        lines.append(tag("tr", *cells))
    rows = tag("table", tag("thead", tag("tr", *head)), tag("tbody", *lines))
    return tag("div", rows, class_="wide")


def legend_html(curves: Mapping[str, Sequence[Line]]) -> Markup:
    """Return the legend of a section's curves, a button per group; nothing for a single one."""
    groups = dict(sorted({line.number: line.group for lines in curves.values() for line in lines}.items()))
    if len(groups) < 2:
        return Markup()
    buttons = []
    for number, name in groups.items():
        look = f"c{number % COLOURS} d{number // COLOURS % len(DASHES)}"
        buttons.append(tag("button", name, class_=look, data_group=number, aria_pressed="false"))
    return tag("div", *buttons, class_="key", title="tap a name to see its lines alone")


def curves_html(curves: Mapping[str, Sequence[Line]]) -> Markup:
    """Return a picture per metric."""
    figures = (tag("figure", tag("figcaption", metric), draw(metric, lines)) for metric, lines in curves.items())
    return tag("div", *figures, class_="grid")


def picture_html(run: Run, step: int, path: Path) -> Markup:
    """Return a run's picture with its name and step, or a line in its place where it cannot be read."""
    try:
        data = base64.b64encode(read_picture(run.folder, path)).decode()
    except OSError as error:
        return tag("figure", tag("figcaption", f"{run.name}: {path.name} cannot be read ({error.strerror})"))
    name = f"{run.name}, step {step:,}"
    return tag("figure", tag("img", alt=name, src=f"data:image/png;base64,{data}"), tag("figcaption", name))
