"""The README is short, its links resolve, its commands are accepted, and its figures are those of docs/results."""

import re
import shlex
from pathlib import Path

import pytest

from vqlab.cli.lightning import option_errors

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
LINKS = re.findall(r"\[([^\]]*)\]\(([^)#]+)(?:#[^)]*)?\)", README)
TABLE = README.partition("| codebook |")[2].partition("\n\n")[0]


def test_readme_is_at_most_150_lines_and_10_kb():
    assert len(README.splitlines()) <= 150
    assert len(README.encode()) <= 10_000


@pytest.mark.parametrize("target", sorted({target for _, target in LINKS}))
def test_link_resolves(target):
    assert (ROOT / target).exists()


@pytest.mark.parametrize(("text", "page"), [link for link in LINKS if link[1].startswith("docs/results/")])
def test_headline_figure_is_in_the_linked_results_page(text, page):
    figures = re.findall(r"\d*\.\d+|\d{2,}", text)
    assert all(
        re.search(rf"(?<![\d.]){re.escape(figure)}(?![\d.]*\d)", (ROOT / page).read_text()) for figure in figures
    )


def test_results_table_equals_the_row_of_the_results_page():
    page = (ROOT / "docs/results/vqvae.md").read_text().replace("**", "").replace("\N{NO-BREAK SPACE}", " ")
    rows = [line.strip("| ").split(" | ") for line in TABLE.splitlines() if " ± " in line]
    assert len(rows) == 5
    for _, psnr, used, perplexity in rows:
        assert f"| {psnr} | {used} | {perplexity} |" in page


def fit_commands(page):
    """Yield the arguments of each complete ``vqlab fit`` of the page's shell blocks that needs no checkpoint."""
    for block in re.findall(r"```bash\n(.*?)```", page, re.S):
        for line in block.replace("\\\n", " ").splitlines():
            args = shlex.split(line, comments=True)
            if args[:2] == ["vqlab", "fit"] and "--ckpt_path" not in args and "$" not in line:
                yield args[1:]


def test_fit_commands_of_readme_and_docs_have_valid_options(monkeypatch):
    monkeypatch.chdir(ROOT)
    pages = [README, *(page.read_text() for page in sorted((ROOT / "docs").rglob("*.md")))]
    helps = (".help", "--help", "--print_config")
    commands = [
        args for page in pages for args in fit_commands(page) if not any(word in "".join(args) for word in helps)
    ]
    assert len(commands) >= 30
    bad = [pair for pair in zip(commands, option_errors(commands), strict=True) if pair[1]]
    assert not bad, bad
