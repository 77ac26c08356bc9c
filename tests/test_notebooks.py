"""Every notebook runs from its first cell to its last, and is committed without outputs."""

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("*.ipynb"))
# All cells run as they are but for the number of batches: that they run is tested here, not how well they teach.
SHORTER = {
    "01_quickstart": {"num_train=8000": "num_train=800", "max_steps=500": "max_steps=50"},  # one epoch
    "02_vqgan_and_prior": {"disc_start=200": "disc_start=20", "steps=600": "steps=60"},
    "03_jsa_exact": {"STEPS, EVERY = 500, 20": "STEPS, EVERY = 100, 20"},
    "04_signals_to_codes": {"num_records=100": "num_records=40", "steps=300": "steps=12", "steps=150": "steps=12"},
    "05_topics": {'("scipy", "sklearn", "matplotlib")': '("matplotlib", "skimage")', "steps=1000": "steps=50"},
    "06_font_style": {'"latin", "greek", "cyrillic"': '"U+0400-0480"', "=400": "=8"},
    "07_few_labels": {"steps=2000": "steps=50"},
}


@pytest.fixture(params=NOTEBOOKS, ids=lambda path: path.stem)
def notebook(request):
    return nbformat.read(request.param, as_version=4)


def test_runs(notebook, tmp_path, monkeypatch, request):
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    for long, short in SHORTER[request.node.callspec.id].items():
        assert any(long in cell.source for cell in code), f"no {long!r}"
        for cell in code:
            cell.source = cell.source.replace(long, short)
    # The kernel that belongs to this Python, not one of the same name that the user may have registered.
    monkeypatch.setenv("JUPYTER_PREFER_ENV_PATH", "1")
    client = NotebookClient(
        notebook, timeout=240, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}
    )
    client.execute()
    assert not list(tmp_path.iterdir()), "a notebook leaves its files in a temporary folder"


def test_is_valid_and_has_no_outputs(notebook):
    nbformat.validate(notebook)
    for cell in notebook.cells:
        assert "attachments" not in cell
        if cell.cell_type == "code":
            assert cell.outputs == []
            assert cell.execution_count is None
