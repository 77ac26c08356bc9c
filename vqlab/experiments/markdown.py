"""A report as Markdown for a repository, with its pictures beside it."""

import re
from collections.abc import Iterator, Mapping, Sequence

from vqlab.experiments.curves import draw
from vqlab.experiments.markup import printable
from vqlab.experiments.report import Block, Curves, Folded, Heading, Pictures
from vqlab.experiments.run_files import read_picture
from vqlab.experiments.tables import Table

FILES = "report_files"
MAX_NAME = 150  # characters of a picture's name
SPECIAL = re.compile(r"[\\`*_|\[\]~$]|^[#>]")


def markdown_page(title: str, blocks: Sequence[Block]) -> tuple[str, dict[str, bytes]]:
    """Return the text, and the pictures beside it by their relative paths."""
    pictures: dict[str, bytes] = {}
    parts = [part for block in blocks for part in block_parts(block, pictures)]
    return "\n\n".join([f"# {plain(title)}", *parts]) + "\n", pictures


def block_parts(block: Block, pictures: dict[str, bytes]) -> Iterator[str]:
    """Yield the paragraphs of a block; add its pictures to ``pictures``."""
    match block:
        case Heading(text, level):
            yield f"{'#' * level} {plain(text)}"
        case str():
            yield plain(block)
        case Table():
            yield f"| {' | '.join(map(plain, block.names))} |\n|{'---|' * len(block.names)}" + "".join(
                f"\n| {' | '.join(f'**{plain(c.shown)}**' if c.best else plain(c.shown) for c in line)} |"
                for line in block.lines
            )
        case Curves(lines):
            for metric, of_metric in lines.items():
                name = file_name(metric, ".svg", pictures)
                pictures[name] = draw(metric, of_metric, legend=True).encode()
                yield f"{plain(metric)}\n\n![{plain(metric)}]({name})"
        case Pictures(files):
            for run, step, path in files:
                name = file_name(f"{run.name}_{path.stem}", ".png", pictures)
                try:
                    pictures[name] = read_picture(run.folder, path)
                    yield f"{plain(run.name)}, step {step:,}:\n\n![{plain(run.name)}]({name})"
                except OSError as error:
                    yield plain(f"{run.name}: {path.name} cannot be read ({error.strerror})")
        case Folded(title, content):
            inner = "\n\n".join(block_parts(content, pictures))
            yield f"<details><summary>{title}</summary>\n\n{inner}\n\n</details>"


def file_name(stem: str, suffix: str, taken: Mapping[str, bytes]) -> str:
    """Return a path for a picture that is not taken, of characters that every system and URL allows."""
    stem = "".join(c if c.isascii() and (c.isalnum() or c in "_-.") else "-" for c in stem[:MAX_NAME])
    name, number = f"{FILES}/{stem}{suffix}", 1
    while name in taken:
        name, number = f"{FILES}/{stem}-{number}{suffix}", number + 1
    return name


def plain(text: str) -> str:
    r"""Return text that Markdown shows unchanged.

    Example:
        >>> print(plain("a_b|c*d <e>"))
        a\_b\|c\*d &lt;e>
    """
    text = " ".join(printable(text).split()).replace("&", "&amp;").replace("<", "&lt;")
    return SPECIAL.sub(r"\\\g<0>", text)
