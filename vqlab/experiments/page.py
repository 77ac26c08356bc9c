"""A report as one HTML file that needs nothing else: pictures and curves are in it, and it asks no network."""

import base64
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from pathlib import Path

from vqlab.experiments.curves import COLOURS, DASHES, STYLE, Line, draw
from vqlab.experiments.report import Section
from vqlab.experiments.runs import Run
from vqlab.experiments.summary import plural
from vqlab.experiments.tables import Table

OPTION = re.compile(r"--[\w.]*\w(=\[[^\]]*\]|=[\w./-]*\w)?")
KINDS = {"step": "Samples", "codes": "Use of the codes", "confusion": "Confusion"}
STYLE_SHEET, SCRIPT = (Path(__file__).with_name(name) for name in ("page.css", "page.js"))


def html_page(title: str, sections: Sequence[Section]) -> str:
    """Return the page."""
    style, script = STYLE_SHEET.read_text() + STYLE, SCRIPT.read_text()
    runs = [run for section in sections for run in section.runs]
    when = time.strftime("%Y-%m-%d %H:%M")
    models = ", ".join(section.title for section in sections)
    body = "".join(part for section in sections for part in section_html(section))
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width,initial-scale=1">
<title>{escape(title)}</title><link rel="icon" href="data:,"><style>{style}</style></head><body>
<h1>{escape(title)}</h1><p class="soft">{plural(len(runs), "run")} of {escape(models)}, read {when}</p>
{problems_html(runs)}{body}<script>{script}</script></body></html>
"""


def section_html(section: Section) -> Iterator[str]:
    """Yield the parts of a section."""
    yield f"<section><h2>{escape(section.title)}</h2><p>{escape(' '.join(section.summary))}</p>"
    yield table_html(section.table)
    if section.over_seeds:
        yield f"<h3>Mean ± standard deviation over seeds</h3>{table_html(section.over_seeds)}"
    if section.verdicts:
        yield f"<h3>What went wrong</h3><ul>{''.join(verdicts_html(section))}</ul>"
    if section.curves:
        yield "<h3>Curves</h3><p class=soft>By steps done; smoothed, with the raw values behind.</p>"
        yield f"{key_html([*section.curves.values(), *section.more_curves.values()])}{curves_html(section.curves)}"
    if section.more_curves:
        more = f"<summary>{len(section.more_curves)} more curves</summary>{curves_html(section.more_curves)}"
        yield f"<details>{more}</details>"
    for kind, pictures in section.pictures.items():
        yield f"<h3>{escape(KINDS.get(kind, kind))}</h3><div class=grid>{''.join(map(picture_html, pictures))}</div>"
    yield f"<details><summary>All figures</summary>{table_html(section.figures)}</details>"
    if section.shared:
        pairs = "".join(f"<div><dt>{escape(k)}:</dt> <dd>{escape(v)}</dd></div>" for k, v in section.shared.items())
        yield f"<details><summary>{len(section.shared)} settings in common</summary><dl>{pairs}</dl></details>"
    yield "</section>"


def table_html(table: Table) -> str:
    """Return a table whose first column stays in sight."""
    head = "".join(f'<th title="{escape(h)}">{escape(n)}' for n, h in zip(table.names, table.hints, strict=True))
    lines = []
    for line in table.lines:
        cells = []
        for shown, exact, best in line:
            kind = "best" if best else "text" if exact is None and shown != "-" else ""
            known = f' data-v="{exact!r}" title="{exact!r}"' if exact is not None else ""
            cells.append(f"<td{f' class={kind}' if kind else ''}{known}>{escape(shown)}")
        lines.append(f"<tr>{''.join(cells)}")
    return f"<div class=wide><table><thead><tr>{head}</thead><tbody>{''.join(lines)}</tbody></table></div>"


def verdicts_html(section: Section) -> Iterator[str]:
    """Yield each kind of verdict, its mend, and the runs that have it."""
    for event, found in section.verdicts.items():
        lines = "".join(f"<li><b>{escape(run.name)}</b> at step {v.step:,}: {escape(v.evidence)}" for run, v in found)
        mend = "; or ".join(dict.fromkeys(verdict.mend for _, verdict in found))
        options = OPTION.sub(r"<code>\g<0></code>", escape(mend))
        yield f"<li><span class=bad>{escape(event.replace('_', ' '))}</span>: {options}<ul>{lines}</ul>"


def key_html(curves: Sequence[Sequence[Line]]) -> str:
    """Return the legend of all curves of a section, a button per group; none for a single one."""
    groups = dict(sorted({line.colour: line.group for lines in curves for line in lines}.items()))
    if len(groups) < 2:
        return ""
    buttons = []
    for colour, name in groups.items():
        look = f"c{colour % COLOURS} d{colour // COLOURS % len(DASHES)}"
        buttons.append(f'<button class="{look}" data-group="{colour}" aria-pressed="false">{escape(name)}</button>')
    return f'<div class=key title="tap a name to see its lines alone">{"".join(buttons)}</div>'


def curves_html(curves: Mapping[str, Sequence[Line]]) -> str:
    """Return a picture per metric."""
    figures = (f"<figure><figcaption>{escape(m)}</figcaption>{draw(m, lines)}</figure>" for m, lines in curves.items())
    return f"<div class=grid>{''.join(figures)}</div>"


def picture_html(picture: tuple[Run, int, Path]) -> str:
    """Return a run's picture with its name and step; a line in its place where the file is gone."""
    run, step, path = picture
    try:
        data = base64.b64encode(path.read_bytes()).decode()
    except OSError:
        return f"<figure><figcaption>{escape(run.name)}: {path.name} cannot be read</figcaption></figure>"
    name = f"{escape(run.name)}, step {step:,}"
    return f'<figure><img alt="{name}" src="data:image/png;base64,{data}"><figcaption>{name}</figcaption></figure>'


def problems_html(runs: Sequence[Run]) -> str:
    """Return a list of what is missing or damaged, and of what failed."""
    lines = [f"<b>{escape(str(run.folder))}</b>: {escape('; '.join(run.problems))}" for run in runs if run.problems]
    lines += [f"<b>{escape(str(run.folder))}</b> failed: {escape(run.error)}" for run in runs if run.status == "failed"]
    return f"<h3>Damaged or failed</h3><ul class=bad>{''.join(f'<li>{line}' for line in lines)}</ul>" if lines else ""
