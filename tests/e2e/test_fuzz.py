"""Whatever options, files and checkpoints hold, vqlab succeeds, or says in one line what is wrong and writes nothing.

A case is determined by its number alone. VQLAB_FUZZ_CASES=1000 runs a thousand of them instead of a few; what fails is
run again by, say, VQLAB_FUZZ_CASES=738 and ``test_fuzz.py::test_it_ends_well[737]``.
"""

import os
import random
import shlex
from pathlib import Path

import pytest

from tests.e2e.fuzz_checkpoints import EXECUTED, checkpoint_case
from tests.e2e.fuzz_files import file_case
from tests.e2e.fuzz_options import config_case, option_case
from tests.e2e.fuzz_stock import SECONDS, Ended, Stock, execute
from tests.helpers import warm_vqlab
from vqlab.cli.lightning import prepare

CASES = int(os.environ.get("VQLAB_FUZZ_CASES", "30"))
KINDS = [option_case, file_case, option_case, checkpoint_case, option_case, file_case, config_case]
LATE = ("is NaN or infinite at batch", "cannot be decoded (")  # found in training, not before


@pytest.fixture(scope="module")
def stock(tmp_path_factory):
    prepare()
    with warm_vqlab.serve() as command:
        yield Stock(command, tmp_path_factory.mktemp("stock"))


@pytest.mark.parametrize("number", range(CASES))
def test_it_ends_well(number, stock, tmp_path):
    folder = tmp_path / "above" / "here"  # a case may write to ../x
    folder.mkdir(parents=True)
    arguments = KINDS[number % len(KINDS)](random.Random(number), folder, stock)
    before = listed(tmp_path)
    ended = execute(stock.command, arguments, folder)
    wrong = fault(ended) or traces(before, listed(tmp_path), ended)
    kind = KINDS[number % len(KINDS)].__name__
    said = f"case {number}, {kind}, {ended.seconds:.1f} s, status {ended.status}: vqlab {shlex.join(arguments)}"
    print(f"{said}\n{ended.output[-300:]}")
    assert not wrong, f"{wrong}\n{said}\n{ended.output[-3000:]}"


def fault(ended: Ended) -> str:
    """Return what is wrong with what a command said, '' if nothing."""
    lines = ended.output.strip().splitlines()
    errors = [line for line in lines if line.startswith("vqlab: error: ")]
    if ended.seconds > SECONDS:
        return "it took too long"
    if "Traceback" in ended.output:
        return "a traceback"
    if ended.status == 0:
        return "an error, and yet success" if errors else ""
    if ended.status != 2:
        return f"status {ended.status}"
    if len(errors) != 1 or lines[-1] != errors[0]:
        return "not exactly one line of error at the end"
    return "" if 30 < len(errors[0]) < 700 else "a line that is too short or too long"


def traces(before: dict[Path, bytes | str], after: dict[Path, bytes | str], ended: Ended) -> str:
    """Return what a command left that it should not have, '' if nothing."""
    if any(path.name == EXECUTED or "evil" in path.name for path in after):
        return "code or an archive did what it wanted"
    changed = [path for path in sorted(after.keys() | before.keys()) if after.get(path) != before.get(path)]
    begun = any(late in ended.output for late in LATE) or any("checkpoints" in path.parts for path in changed)
    if ended.status == 2 and changed and not begun:
        return f"refused, and yet it changed {', '.join(map(str, changed))}"
    return ""


def listed(folder: Path) -> dict[Path, bytes | str]:
    """Return the content of each file under ``folder``, and where links point to."""
    links = {path: str(path.readlink()) for path in folder.rglob("*") if path.is_symlink()}
    return links | {path: path.read_bytes() for path in folder.rglob("*") if path not in links and path.is_file()}
