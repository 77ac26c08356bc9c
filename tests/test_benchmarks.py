"""``benchmarks/run.py`` puts the ratios of all comparisons into a README, and refuses in one line what cannot be."""

import ast
import math
import platform
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
BEGIN, END = "<!-- benchmarks: begin -->", "<!-- benchmarks: end -->"
PAGE = f"# Title\n\nBefore.\n\n{BEGIN}\nan old table\n{END}\n\nAfter, with |.\n"


@pytest.fixture
def run(monkeypatch):
    """The script as a module, in whose functions no process is started."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    import run

    yield run
    for name in ("run", "ratios"):
        del sys.modules[name]


def start(*options):
    command = [sys.executable, str(BENCHMARKS / "run.py"), *map(str, options)]
    return subprocess.run(command, capture_output=True, text=True, timeout=240)


def refused(*options):
    result = start(*options)
    assert result.returncode == 2, result.stderr
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    return line


def cells(page):
    head, rule, *rows = [line.strip("| ").split(" | ") for line in page.split(END)[0].splitlines() if line[:1] == "|"]
    assert len(rule) == 4
    return head, rows


@pytest.mark.slow
def test_replaces_the_table_and_nothing_else(tmp_path):
    readme = tmp_path / "README.md"
    readme.write_text(PAGE)
    pages = []
    for names in (["jsa_step", "s4d"], ["s4d"]):
        result = start("--quick", "--only", *names, "--readme", readme)
        assert result.returncode == 0, result.stderr
        pages.append(readme.read_text())
        assert list(tmp_path.iterdir()) == [readme]
    for page in pages:
        assert page.startswith(f"# Title\n\nBefore.\n\n{BEGIN}\n\nHow many times")
        assert page.endswith(f"\n\n{END}\n\nAfter, with |.\n")
        assert page.count(BEGIN) == page.count(END) == page.count(f"Python {platform.python_version()}, torch ") == 1
        assert "old table" not in page
        figures = [float(cell.split()[0]) for row in cells(page)[1] for cell in row[2:] if cell.strip()]
        assert all(math.isfinite(figure) and figure > 0 for figure in figures)
    (head, both), (head_again, s4d) = map(cells, pages)
    assert head == head_again
    assert [row[:2] for row in both[1:]] == [row[:2] for row in s4d]  # the first is JSA's
    assert [row[1] for row in s4d] == ["materialised", "materialised", "GRU", "convolution, k = 7"]


def test_refuses_before_it_measures(tmp_path):
    (tmp_path / "README.md").write_text("no markers")
    assert f"lacks {BEGIN} and {END}" in refused("--only", "s4d", "--readme", tmp_path / "README.md")
    assert "absent.md is not a file" in refused("--only", "s4d", "--readme", tmp_path / "absent.md")
    line = refused("--only", "s4d", "s5d", "--quick")
    assert "no comparison s5d" in line
    assert "quantizers, vqgan_step, jsa_step, s4d, sgan, gan_topic, coherence" in line


def test_a_figure_below_one_has_its_reason(run):
    def ratio(measure, value, reason="it does more"):
        return run.Ratio("part", "peer", measure, value, reason)

    assert run.to_markdown([ratio("time", 12.3), ratio("memory", 0.5)]).splitlines()[-1] == (
        "| part | peer | 12 | 0.50 (it does more) |"
    )
    assert run.to_cell(ratio("time", 1.0)) == "1.00"
    assert run.to_cell(ratio("time", 0.99, "")) == "0.99 (unexplained)"
    assert run.to_cell(ratio("memory", math.nan)) == ""


def test_every_file_with_ratios_is_run(run):
    def compares(file):
        return any(
            isinstance(node, ast.FunctionDef) and node.name == "ratios" for node in ast.parse(file.read_text()).body
        )

    assert {file.stem for file in BENCHMARKS.glob("*.py") if compares(file)} == set(run.COMPARISONS)
