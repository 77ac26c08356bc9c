"""Every test runs offline, with one seed and few threads, in a folder of its own."""

import os
import sys
from pathlib import Path

if sys.dont_write_bytecode:  # then each process that a test starts would compile torch and Lightning anew
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    os.environ["PYTHONPYCACHEPREFIX"] = sys.pycache_prefix = str(Path(__file__).parents[1] / ".pytest_cache/bytecode")
    sys.dont_write_bytecode = False
os.environ.setdefault("WANDB_MODE", "disabled")
os.environ["OMP_NUM_THREADS"] = "1"  # the number of threads changes the order of sums, and so the last bits

import pytest
import torch

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _own_folder_and_seed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)


def pytest_addoption(parser):
    parser.addoption("--runslow", action="store_true", help="run the tests marked slow, too")


def pytest_collection_modifyitems(config, items):
    if hasattr(config, "workerinput"):  # the files that take long come first, so that no worker ends with one alone
        items.sort(key=lambda item: not {"e2e", "test_notebooks.py"} & set(item.path.parts))
    skipped = {} if torch.cuda.is_available() else {"gpu": "needs a CUDA device"}
    if not config.getoption("--runslow"):
        skipped["slow"] = "takes long: run with --runslow"
    for item in items:
        for marker, reason in skipped.items():
            if item.get_closest_marker(marker):
                item.add_marker(pytest.mark.skip(reason=reason))
