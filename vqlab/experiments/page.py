"""A report as one HTML file that needs nothing else: pictures and curves are in it, and it asks no network."""

import base64
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from hashlib import sha256
from pathlib import Path

from vqlab.experiments.curves import COLOURS, DASHES, STYLE, Line, draw
from vqlab.experiments.markup import Markup, tag
from vqlab.experiments.report import Section
from vqlab.experiments.run_files import read_picture
from vqlab.experiments.runs import Run
from vqlab.experiments.summary import plural
from vqlab.experiments.tables import Table

OPTION = re.compile(r"(--[\w.]*\w(?:=\[[^\]]*\]|=[\w./-]*\w)?)")
KINDS = {"step": "Samples", "codes": "Use of the codes", "confusion": "Confusion"}
STYLE_SHEET, SCRIPT = (Path(__file__).with_name(name) for name in ("page.css", "page.js"))


def html_page(title: str, sections: Sequence[Section]) -> str:
    """Return the page; its Content-Security-Policy allows its own style, script and pictures, and nothing else."""
    style, script = Markup(STYLE_SHEET.read_text() + STYLE), Markup(SCRIPT.read_text())
    policy = (
        f"default-src 'none'; style-src {digest(style)}; script-src {digest(script)}; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )
    runs = [run for section in sections for run in section.runs]
    when = time.strftime("%Y-%m-%d %H:%M")
    models = ", ".join(section.title for section in sections)
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=policy),
        tag("meta", name="viewport", content="width=device-width,initial-scale=1"),
        tag("title", title),
        tag("link", rel="icon", href="data:,"),
        tag("style", style),
    )
    body = tag(
        "body",
        tag("h1", title),
        tag("p", f"{plural(len(runs), 'run')} of {models}, read {when}", class_="soft"),
        *problems_html(runs),
        *(tag("section", *section_html(section)) for section in sections),
        tag("script", script),
    )
    return f"<!doctype html>\n{tag('html', head, body, lang='en')}\n"


def digest(content: str) -> str:
    """Return what names an inline style or script in a Content-Security-Policy."""
    return f"'sha256-{base64.b64encode(sha256(content.encode()).digest()).decode()}'"


def section_html(section: Section) -> Iterator[Markup]:
    """Yield the parts of a section."""
    yield tag("h2", section.title)
    yield tag("p", " ".join(section.summary))
    yield table_html(section.table)
    if section.over_seeds:
        yield tag("h3", "Mean ± standard deviation over seeds")
        yield table_html(section.over_seeds)
    if section.verdicts:
        yield tag("h3", "What went wrong")
        yield tag("ul", *verdicts_html(section))
    if section.curves:
        yield tag("h3", "Curves")
        yield tag("p", "By steps done; smoothed, with the raw values behind.", class_="soft")
        yield key_html([*section.curves.values(), *section.more_curves.values()])
        yield curves_html(section.curves)
    if section.more_curves:
        yield folded(f"{len(section.more_curves)} more curves", curves_html(section.more_curves))
    for kind, pictures in section.pictures.items():
        yield tag("h3", KINDS.get(kind, kind))
        yield tag("div", *map(picture_html, pictures), class_="grid")
    yield folded("All figures", table_html(section.figures))
    if section.shared:
        pairs = [tag("div", tag("dt", f"{k}:"), " ", tag("dd", v)) for k, v in section.shared.items()]
        yield folded(f"{len(section.shared)} settings in common", tag("dl", *pairs))


def folded(title: str, content: Markup) -> Markup:
    """Return what a reader opens to see it."""
    return tag("details", tag("summary", title), content)


def table_html(table: Table) -> Markup:
    """Return a table whose first column stays in sight."""
    head = [tag("th", name, title=hint) for name, hint in zip(table.names, table.hints, strict=True)]
    lines = []
    for line in table.lines:
        cells = []
        for shown, exact, best in line:
            kind = "best" if best else "text" if exact is None and shown != "-" else None
            value = None if exact is None else repr(exact)
            cells.append(tag("td", shown, class_=kind, data_v=value, title=value))
        lines.append(tag("tr", *cells))
    rows = tag("table", tag("thead", tag("tr", *head)), tag("tbody", *lines))
    return tag("div", rows, class_="wide")


def verdicts_html(section: Section) -> Iterator[Markup]:
    """Yield each kind of verdict, its mend, and the runs that have it."""
    for event, found in section.verdicts.items():
        lines = [tag("li", tag("b", run.name), f" at step {v.step:,}: {v.evidence}") for run, v in found]
        mend = "; or ".join(dict.fromkeys(verdict.mend for _, verdict in found))
        options = [tag("code", part) if place % 2 else part for place, part in enumerate(OPTION.split(mend))]
        yield tag("li", tag("span", event.replace("_", " "), class_="bad"), ": ", *options, tag("ul", *lines))


def key_html(curves: Sequence[Sequence[Line]]) -> Markup:
    """Return the legend of all curves of a section, a button per group; none for a single one."""
    groups = dict(sorted({line.colour: line.group for lines in curves for line in lines}.items()))
    if len(groups) < 2:
        return Markup()
    buttons = []
    for colour, name in groups.items():
        look = f"c{colour % COLOURS} d{colour // COLOURS % len(DASHES)}"
        buttons.append(tag("button", name, class_=look, data_group=colour, aria_pressed="false"))
    return tag("div", *buttons, class_="key", title="tap a name to see its lines alone")


def curves_html(curves: Mapping[str, Sequence[Line]]) -> Markup:
    """Return a picture per metric."""
    figures = (tag("figure", tag("figcaption", metric), draw(metric, lines)) for metric, lines in curves.items())
    return tag("div", *figures, class_="grid")


def picture_html(picture: tuple[Run, int, Path]) -> Markup:
    """Return a run's picture with its name and step; a line in its place where it cannot be shown."""
    run, step, path = picture
    try:
        data = base64.b64encode(read_picture(run.folder, path)).decode()
    except OSError as error:
        return tag("figure", tag("figcaption", f"{run.name}: {path.name} cannot be read ({error.strerror})"))
    name = f"{run.name}, step {step:,}"
    return tag("figure", tag("img", alt=name, src=f"data:image/png;base64,{data}"), tag("figcaption", name))


def problems_html(runs: Sequence[Run]) -> Iterator[Markup]:
    """Yield a list of what is missing or damaged, and of what failed."""
    lines = [(str(run.folder), f": {'; '.join(run.problems)}") for run in runs if run.problems]
    lines += [(str(run.folder), f" failed: {run.error}") for run in runs if run.status == "failed"]
    if lines:
        yield tag("h3", "Damaged or failed")
        yield tag("ul", *(tag("li", tag("b", folder), text) for folder, text in lines), class_="bad")
