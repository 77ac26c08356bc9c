"""Run notebooks and store their outputs in ``outputs/``, from where the site shows them: ``run.py [name ...]``.

The notebooks of the repository have no outputs. Without a name, this runs those whose code differs from the code that
the stored outputs came from; all eight take about seven minutes on a CPU core.
"""

import base64
import io
import json
import os
import sys
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from PIL import Image

HERE = Path(__file__).parent
NOTEBOOKS = HERE.parents[1] / "notebooks"


def smaller(png: str) -> str:
    """Reduce a picture to 256 colours where that makes it smaller."""
    data = base64.b64decode(png)
    buffer = io.BytesIO()
    picture = Image.open(io.BytesIO(data)).convert("RGB")
    picture.quantize(256, dither=Image.Dither.NONE).save(buffer, "PNG", optimize=True)
    return base64.b64encode(min(data, buffer.getvalue(), key=len)).decode()


def outdated(path: Path, stored: Path) -> bool:
    """Whether the stored outputs are missing or came from other code."""
    code = [cell.source for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]
    return not stored.exists() or [cell["source"] for cell in json.loads(stored.read_text())] != code


def run(path: Path) -> list[dict]:
    """Return code and outputs of each code cell; warnings on stderr are left out."""
    notebook = nbformat.read(path, as_version=4)
    NotebookClient(notebook, timeout=1800, kernel_name="python3").execute()
    cells = []
    for cell in notebook.cells:
        if cell.cell_type == "code":
            outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
            for output in outputs:
                output.pop("execution_count", None)
                output.get("metadata", {}).clear()
                if "image/png" in output.get("data", {}):
                    output["data"]["image/png"] = smaller(output["data"]["image/png"])
            cells.append({"source": cell.source, "outputs": outputs})
    return cells


if __name__ == "__main__":
    os.environ["OMP_NUM_THREADS"] = "1"
    for path in sorted(NOTEBOOKS.glob("*.ipynb")):
        stored = HERE / "outputs" / f"{path.stem}.json"
        if path.stem in sys.argv[1:] if sys.argv[1:] else outdated(path, stored):
            stored.write_text(json.dumps(run(path), indent=1) + "\n")
            print(path.stem, flush=True)
