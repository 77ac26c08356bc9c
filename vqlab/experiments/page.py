"""A report as one HTML file that loads nothing from a network, or as Markdown with its pictures beside it."""

import re
import time
from base64 import b64encode
from collections.abc import Sequence
from pathlib import Path

from jinja2 import Environment, FileSystemLoader

from vqlab.experiments.report import Block, Cell, Folded, Heading, Pictures, Table
from vqlab.experiments.text import printable

FILES = "report_files"
SPECIAL = re.compile(r"[\\`*_|\[\]~$]|^[#>]")


def html_page(title: str, blocks: Sequence[Block]) -> str:
    """Return the page, from ``page.html``, in which all text is escaped."""
    loader = FileSystemLoader(Path(__file__).parent)
    pages = Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True, finalize=shown)
    pages.filters["base64"] = lambda content: b64encode(content).decode()
    sections: list[list[Block]] = [[]]
    for block in blocks:
        if isinstance(block, Heading) and block.level == 2:
            sections.append([])
        sections[-1].append(block)
    read = time.strftime("%Y-%m-%d %H:%M")
    return pages.get_template("page.html").render(title=title, sections=filter(None, sections), read=read)


def shown(value: object) -> object:
    """Return a value as the page shows it: text without unprintable characters."""
    return printable(value) if type(value) is str else value


def markdown_page(title: str, blocks: Sequence[Block]) -> tuple[str, dict[str, bytes]]:
    """Return the text, and the pictures beside it by their relative paths."""
    files: dict[str, bytes] = {}
    parts = [markdown(block, files) for block in blocks]
    return "\n\n".join([f"# {plain(title)}", *parts]) + "\n", files


def markdown(block: Block, files: dict[str, bytes]) -> str:
    """Return a block as Markdown; add its pictures to ``files``."""
    match block:
        case Heading():
            return f"{'#' * block.level} {plain(block.text)}"
        case Table():
            rows = [map(plain, block.names), ["---"] * len(block.names), *(map(cell_text, row) for row in block.rows)]
            return "\n".join(f"| {' | '.join(row)} |" for row in rows)
        case Pictures():
            parts = []
            for caption, content, suffix in block.pictures:
                stem = re.sub(r"[^\w.-]+", "-", caption, flags=re.ASCII)[:150]
                name = f"{FILES}/{len(files)}-{stem}{suffix}"
                files[name] = content
                parts.append(f"{plain(caption)}\n\n![{plain(caption)}]({name})")
            return "\n\n".join(parts)
        case Folded():
            inner = markdown(block.content, files)
            return f"<details><summary>{plain(block.title)}</summary>\n\n{inner}\n\n</details>"
        case _:
            return plain(block)


def cell_text(cell: Cell) -> str:
    """Return a cell, the best of its column in bold."""
    return f"**{plain(cell.shown)}**" if cell.best else plain(cell.shown)


def plain(text: str) -> str:
    r"""Return text that Markdown shows unchanged."""
    text = " ".join(printable(text).split()).replace("&", "&amp;").replace("<", "&lt;")
    return SPECIAL.sub(r"\\\g<0>", text)
