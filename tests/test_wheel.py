"""An installed wheel works without a clone."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """A folder with the content of the wheel."""
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = folder.glob("vqlab-*.whl")
    zipfile.ZipFile(wheel).extractall(folder / "site")
    return folder / "site"


def test_wheel_has_all_files(installed):
    shipped = {path.relative_to(installed) for path in installed.rglob("*") if path.is_file()}
    package = [p for p in (ROOT / "vqlab").rglob("*") if p.is_file() and "__pycache__" not in p.parts]
    expected = {path.relative_to(ROOT) for path in package}
    expected |= {Path("vqlab") / path.relative_to(ROOT) for path in (ROOT / "configs").rglob("*.yaml")}
    assert {path for path in shipped if path.parts[0] == "vqlab"} == expected
    assert any(path.name == "LICENSE" for path in shipped)


def test_builtin_experiment_and_its_base_are_found(installed):
    call = [sys.executable, "-m", "vqlab", "sweep", "configs/experiments/digits.yaml", "--dry-run"]
    env = {**os.environ, "PYTHONPATH": str(installed)}
    rows = subprocess.run(call, env=env, capture_output=True, text=True)
    assert rows.returncode == 0, rows.stderr
    assert f"--config={installed}/vqlab/configs/" in rows.stdout
