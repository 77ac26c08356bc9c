"""A report as Markdown, with its pictures beside it, to be pasted into a repository."""

import re
from collections.abc import Iterator, Mapping, Sequence

from vqlab.experiments.curves import Line, draw
from vqlab.experiments.markup import printable
from vqlab.experiments.page import KINDS
from vqlab.experiments.report import Section
from vqlab.experiments.run_files import read_picture
from vqlab.experiments.runs import Run
from vqlab.experiments.tables import Table

FILES = "report_files"
LONGEST = 150  # characters of a picture's name
MARKS = re.compile(r"[\\`*_|\[\]~$]|^[#>]")


def markdown_page(title: str, sections: Sequence[Section]) -> tuple[str, dict[str, bytes]]:
    """Return the text, and the pictures that belong beside it by their relative paths."""
    pictures: dict[str, bytes] = {}
    runs = [run for section in sections for run in section.runs]
    parts = [f"# {plain(title)}", *problems(runs)]
    for section in sections:
        parts += section_parts(section, pictures)
    return "\n\n".join(parts) + "\n", pictures


def section_parts(section: Section, pictures: dict[str, bytes]) -> Iterator[str]:
    """Yield the paragraphs of a section; add its pictures to ``pictures``."""
    yield f"## {plain(section.title)}"
    yield plain(" ".join(section.summary))
    yield table(section.table)
    if section.over_seeds:
        yield "Mean ± standard deviation over seeds:"
        yield table(section.over_seeds)
    if section.verdicts:
        yield "### What went wrong"
        yield "\n".join(verdicts(section))
    if section.curves:
        yield "### Curves"
        yield curves(section, section.curves, pictures)
    if section.more_curves:
        yield folded(f"{len(section.more_curves)} more curves", curves(section, section.more_curves, pictures))
    for kind, found in section.pictures.items():
        yield f"### {plain(KINDS.get(kind, kind))}"
        for run, step, path in found:
            name = file_name(f"{run.name}_{path.stem}", ".png", pictures)
            try:
                pictures[name] = read_picture(run.folder, path)
                yield f"{plain(run.name)}, step {step:,}:\n\n![{plain(run.name)}]({name})"
            except OSError as error:
                yield plain(f"{run.name}: {path.name} cannot be read ({error.strerror})")
    yield folded("All figures", table(section.figures))
    if section.shared:
        lines = "\n".join(f"- {plain(name)}: {plain(value)}" for name, value in section.shared.items())
        yield folded(f"{len(section.shared)} settings in common", lines)


def table(content: Table) -> str:
    """Return a table, the best of a column in bold."""
    lines = [f"| {' | '.join(map(plain, content.names))} |", f"|{'---|' * len(content.names)}"]
    for line in content.lines:
        cells = [f"**{plain(cell.shown)}**" if cell.best else plain(cell.shown) for cell in line]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def verdicts(section: Section) -> Iterator[str]:
    """Yield a list of the verdicts."""
    for event, found in section.verdicts.items():
        mend = "; or ".join(dict.fromkeys(verdict.mend for _, verdict in found))
        yield f"- **{plain(event.replace('_', ' '))}**: {plain(mend)}"
        for run, verdict in found:
            yield f"  - {plain(run.name)} at step {verdict.step:,}: {plain(verdict.evidence)}"


def curves(section: Section, lines: Mapping[str, Sequence[Line]], pictures: dict[str, bytes]) -> str:
    """Return the pictures of some metrics."""
    found = []
    for metric, of_metric in lines.items():
        name = file_name(f"{section.title}_{metric}", ".svg", pictures)
        pictures[name] = draw(metric, of_metric, legend=True).encode()
        found.append(f"{plain(metric)}\n\n![{plain(metric)}]({name})")
    return "\n\n".join(found)


def problems(runs: Sequence[Run]) -> list[str]:
    """Return a list of what is missing or damaged, and of what failed."""
    lines = [f"- {plain(str(run.folder))}: {plain('; '.join(run.problems))}" for run in runs if run.problems]
    lines += [f"- {plain(str(run.folder))} failed: {plain(run.error)}" for run in runs if run.status == "failed"]
    return ["Damaged or failed:", "\n".join(lines)] if lines else []


def folded(title: str, content: str) -> str:
    """Return what a reader opens if he wants to see it."""
    return f"<details><summary>{title}</summary>\n\n{content}\n\n</details>"


def file_name(stem: str, suffix: str, taken: Mapping[str, bytes]) -> str:
    """Return a path for a picture that is not taken, of characters that every system and URL allows."""
    stem = "".join(c if c.isascii() and (c.isalnum() or c in "_-.") else "-" for c in stem[:LONGEST])
    name, number = f"{FILES}/{stem}{suffix}", 1
    while name in taken:
        name, number = f"{FILES}/{stem}-{number}{suffix}", number + 1
    return name


def plain(text: str) -> str:
    r"""Return text that Markdown shows as it is.

    Example:
        >>> print(plain("a_b|c*d <e>"))
        a\_b\|c\*d &lt;e>
    """
    text = " ".join(printable(text).split()).replace("&", "&amp;").replace("<", "&lt;")
    return MARKS.sub(r"\\\g<0>", text)
