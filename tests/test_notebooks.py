"""Every notebook runs from its first cell to its last, and is committed without outputs."""

import os
from pathlib import Path

import nbformat
import pytest

from tests.helpers.forks import fork, status_of

NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("*.ipynb"))
# All cells run as they are but for the number of batches: the test is that they run, not what they reach.
SHORTER = {
    "01_quickstart": {"num_train=8000": "num_train=800", "max_steps=500": "max_steps=50"},  # one epoch
    "02_vqgan_and_prior": {"disc_start=200": "disc_start=20", "steps=600": "steps=60"},
    "03_jsa_exact": {"STEPS, EVERY = 500, 20": "STEPS, EVERY = 100, 20"},
    "04_signals_to_codes": {"num_records=100": "num_records=40", "steps=300": "steps=12", "steps=150": "steps=12"},
    "05_topics": {'("scipy", "sklearn", "matplotlib")': '("matplotlib", "skimage")', "steps=1000": "steps=50"},
    "06_font_style": {'"latin", "greek", "cyrillic"': '"U+0400-0480"', "=400": "=8"},
    "07_few_labels": {"steps=2000": "steps=50"},
    "08_masked_and_next_scale": {"steps=600": "steps=60"},
}


def run(code):
    """Run cells of plain Python, plots included, in a process that has everything imported."""
    import matplotlib

    matplotlib.use("agg")
    exec(compile(code, "notebook", "exec"), {"__name__": "__main__"})


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_runs_and_has_no_outputs(path, tmp_path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(cell.outputs == [] and cell.execution_count is None for cell in cells)
    assert not any("attachments" in cell for cell in notebook.cells)
    code = "\n".join(cell.source for cell in cells)
    for long, short in SHORTER.get(path.stem, {}).items():
        assert long in code, f"no {long!r}"
        code = code.replace(long, short)
    assert status_of(fork(run, code)) == 0
    assert not os.listdir(tmp_path), "a notebook leaves its files in a temporary folder"
