"""``vqlab report``: the lab log of a set of runs, as one HTML page or as Markdown with its pictures beside it."""

import os
import re
import time
from base64 import b64encode
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote

from jinja2 import Environment, FileSystemLoader
from markupsafe import Markup

from vqlab.atomic_io import write_atomic
from vqlab.cli.arguments import Parser
from vqlab.experiments.experiment import read_experiment
from vqlab.experiments.report import Section, write_report
from vqlab.experiments.results_page import results_page
from vqlab.experiments.runs import find_runs
from vqlab.experiments.text import plural, printable

SPECIAL = re.compile(r"[\\`*_|\[\]~$]|^[#>]")


def report(args: Sequence[str]) -> None:
    """Run ``vqlab report`` with ``args``."""
    description = "Write the lab log: which settings differ between runs, their metrics and health events."
    parser = Parser(prog="vqlab report", description=description)
    add = parser.add_argument
    add("runs", type=Path, nargs="+", help="run folders, or folders of runs; two runs are compared side by side")
    add("-o", "--output", type=Path, default=Path("report"), help="folder to write (default report)")
    add("--format", choices=("html", "md"), default="html", help="one HTML file, or Markdown with pictures beside it")
    add("--docs", type=Path, metavar="FILE", help="write the results page of this experiment file, as Markdown")
    add("--title", help="headline (default: the folders, or the experiment file)")
    options = parser.parse_args(args)
    runs = find_runs(options.runs)
    if options.docs:
        experiment = read_experiment(options.docs)
        sections, name, template = results_page(experiment, runs), options.docs.stem, "report.md"
        title = options.title or f"Results of {options.docs.name}"
    else:
        sections = write_report(runs, together=len(options.runs) == len(runs) == 2)
        name, template = "report", f"report.{options.format}"
        title = options.title or " ".join(map(str, options.runs))
    page = options.output / f"{name}{Path(template).suffix}"
    text, files = render(template, title, sections, options.output, f"{name}_files")
    for name, content in {**files, page.name: text.encode()}.items():
        with write_atomic(options.output / name, "-o") as file:
            file.write(content)
    summaries = [section.summary for section in sections if section.summary]
    problems = [f"{run.folder}: {problem}" for run in runs for problem in run.problems]
    print("\n".join(map(printable, [*summaries, *problems])))
    print(f"{page}: {plural(len(runs), 'run')}, {page.stat().st_size / 1e6:.1f} MB")


def render(
    template: str, title: str, sections: Sequence[Section], output: Path, folder: str
) -> tuple[str, dict[str, bytes]]:
    """Return the page, with all text escaped, and the pictures beside it, in ``folder``, by their relative paths."""
    files: dict[str, bytes] = {}

    def saved(content: bytes, caption: str, suffix: str) -> str:
        stem = re.sub(r"[^\w.-]+", "-", caption, flags=re.ASCII)[:150]
        name = f"{folder}/{len(files)}-{stem}{suffix}"
        files[name] = content
        return Markup(name)

    def clean(value: object) -> object:
        return (printable if template == "report.html" else plain)(value) if type(value) is str else value

    loader = FileSystemLoader(Path(__file__).parent)
    pages = Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True, finalize=clean)
    pages.filters |= {"base64": lambda content: b64encode(content).decode(), "saved": saved}
    pages.filters["link"] = lambda folder: Markup(quote(os.path.relpath(folder, output)))
    read = time.strftime("%Y-%m-%d %H:%M")
    return pages.get_template(template).render(title=title, sections=sections, read=read), files


def plain(text: str) -> Markup:
    """Return text that Markdown shows unchanged."""
    text = " ".join(printable(text).split()).replace("&", "&amp;").replace("<", "&lt;")
    return Markup(SPECIAL.sub(r"\\\g<0>", text))
