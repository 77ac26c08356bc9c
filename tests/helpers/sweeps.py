"""Sweeps over ``fake_vqlab``: in this process, or as a process of its own that can be killed."""

import os
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import yaml

from tests.helpers import fake_vqlab
from vqlab.cli.sweep import sweep

FAKE = [sys.executable, fake_vqlab.__file__]
SCRIPT = f"""
import sys
from vqlab.cli.sweep import sweep
from vqlab.training.stop_signals import STOP_SIGNALS
with STOP_SIGNALS.installed():
    sweep(sys.argv[1:], {FAKE!r}, lambda calls: [None] * len(calls))
"""
BASE = {
    "model": {"class_path": "Toy", "init_args": {"lr": 0.1}},
    "data": {"class_path": "Digits", "init_args": {"batch_size": 8}},
    "trainer": {"max_steps": 20},
}
ROWS = [{"name": name, "model.lr": lr} for name, lr in (("a", 0.1), ("b", 0.2), ("c", 0.3))]


def write(**content):
    """Write base.yaml, and x.yaml over it; runs note their steps in the file ``diary``."""
    os.environ["FAKE_DIARY"] = str(Path("diary").absolute())
    Path("base.yaml").write_text(yaml.safe_dump(BASE))
    Path("x.yaml").write_text(yaml.safe_dump({"base": "base.yaml", **content}, sort_keys=False))


def run(*args):
    """Sweep x.yaml in this process; return the exit status."""
    try:
        sweep(["x.yaml", *args], FAKE, lambda calls: [None] * len(calls))
    except SystemExit as stopped:
        return stopped.code
    return 0


def start(*args):
    """Sweep x.yaml in another process."""
    pipe = subprocess.PIPE
    call = [sys.executable, "-c", SCRIPT, "x.yaml", *args]
    return subprocess.Popen(call, stdout=pipe, stderr=subprocess.STDOUT, text=True, env=dict(os.environ))


def diary():
    """Return (process, run, step) of each step that was done."""
    path = Path("diary")
    lines = [line.split() for line in path.read_text().splitlines()] if path.exists() else []
    return [(int(process), name, int(step)) for process, name, step in lines]


def times_done():
    """Return how often each step of each run was done."""
    return Counter((name, step) for _, name, step in diary())


def wait_for(condition):
    for _ in range(600):
        if condition():
            return
        time.sleep(0.02)
    raise TimeoutError(condition)
