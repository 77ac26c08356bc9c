"""``benchmarks/run.py`` writes the ratios of all comparisons into a README, and reports mistakes in one line."""

import ast
import math
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
BEGIN, END = "<!-- benchmarks: begin -->", "<!-- benchmarks: end -->"


@pytest.fixture
def run(monkeypatch):
    """The script as a module."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    import run

    yield run
    for name in ("run", "ratios"):
        del sys.modules[name]


def start(*options):
    command = [sys.executable, str(BENCHMARKS / "run.py"), *map(str, options)]
    return subprocess.run(command, capture_output=True, text=True, timeout=240)


@pytest.mark.slow
def test_only_the_table_is_replaced(tmp_path):
    readme = tmp_path / "README.md"
    readme.write_text(f"# Title\n\nBefore.\n\n{BEGIN}\nan old table\n{END}\n\nAfter, with |.\n")
    result = start("--quick", "--only", "s4d", "--readme", readme)
    assert result.returncode == 0, result.stderr
    page = readme.read_text()
    assert list(tmp_path.iterdir()) == [readme]
    assert page.startswith(f"# Title\n\nBefore.\n\n{BEGIN}\n\nHow many times")
    assert page.endswith(f"\n\n{END}\n\nAfter, with |.\n")
    assert "old table" not in page
    rows = [line.strip("| ").split(" | ") for line in page.split(END)[0].splitlines() if line[:1] == "|"][2:]
    assert [row[1] for row in rows] == ["materialised", "materialised", "GRU", "convolution, k = 7"]
    assert all(0 < float(cell.split()[0]) < math.inf for row in rows for cell in row[2:] if cell.strip())


def test_message_of_unknown_comparison(tmp_path):
    result = start("--only", "s4d", "s5d", "--quick")
    assert (result.returncode, result.stdout) == (2, "")
    (line,) = result.stderr.splitlines()
    assert "no comparison s5d" in line


def test_ratio_below_one_has_a_reason(run):
    def cell(measure, value, reason):
        return run.to_cell(run.Ratio("part", "peer", measure, value, reason))

    assert cell("time", 12.3, "it does more") == "12"
    assert cell("memory", 0.5, "it does more") == "0.50 (it does more)"
    assert cell("time", 0.99, "") == "0.99 (unexplained)"
    assert cell("memory", math.nan, "it does more") == ""


def test_every_file_with_ratios_is_run(run):
    trees = {file.stem: ast.parse(file.read_text()).body for file in BENCHMARKS.glob("*.py")}
    compared = {name for name, body in trees.items() if any(getattr(node, "name", "") == "ratios" for node in body)}
    assert compared == set(run.COMPARISONS)
