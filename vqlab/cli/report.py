"""``vqlab report``: the lab log of the runs in some folders, as one page."""

from collections.abc import Sequence
from pathlib import Path

from vqlab.atomic_io import write_atomic
from vqlab.cli.parser import Parser
from vqlab.experiments.page import html_page, markdown_page
from vqlab.experiments.report import write_report
from vqlab.experiments.runs import find_runs
from vqlab.experiments.text import plural, printable


def report(args: Sequence[str]) -> None:
    """Run ``vqlab report`` with ``args``."""
    parser = Parser(
        prog="vqlab report",
        description="Write the lab log: which settings differ between runs, their metrics and health events.",
    )
    add = parser.add_argument
    add("runs", type=Path, nargs="+", help="run folders, or folders that hold some, such as runs")
    add("-o", "--output", type=Path, default=Path("report"), help="folder to write (default report)")
    add("--format", choices=("html", "md"), default="html", help="one HTML file, or Markdown with pictures beside it")
    add("--title", help="headline (default: the folders)")
    options = parser.parse_args(args)
    runs = find_runs(options.runs)
    summaries, blocks = write_report(runs)
    title = options.title or " ".join(map(str, options.runs))
    page = options.output / f"report.{options.format}"
    files: dict[str, bytes] = {}
    if options.format == "html":
        text = html_page(title, blocks)
    else:
        text, files = markdown_page(title, blocks)
    for name, content in {**files, page.name: text.encode()}.items():
        with write_atomic(options.output / name, "-o") as file:
            file.write(content)
    problems = [f"{run.folder}: {problem}" for run in runs for problem in run.problems]
    print("\n".join(map(printable, [*summaries, *problems])))
    print(f"{page}: {plural(len(runs), 'run')}, {page.stat().st_size / 1e6:.1f} MB")
