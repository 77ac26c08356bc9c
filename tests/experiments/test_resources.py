"""Rows that run at once share what there is."""

import os

import pytest

from vqlab.experiments import resources as module
from vqlab.experiments.resources import shares, visible_gpus


@pytest.mark.parametrize(
    ("gpus", "jobs", "expected"),
    [
        ("0,1,2,3", 4, ["0", "1", "2", "3"]),
        ("4,5,6,7", 2, ["4,5", "6,7"]),
        ("0,1", 4, ["0", "1", "0", "1"]),
        ("0,1,2", 2, ["0", "1"]),
        ("GPU-a,GPU-b", 2, ["GPU-a", "GPU-b"]),
        ("", 2, [None, None]),
        ("0,1", 1, [None]),
    ],
)
def test_each_row_sees_its_gpus(monkeypatch, gpus, jobs, expected):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", gpus)
    assert [share.get("CUDA_VISIBLE_DEVICES") for share in shares(jobs)] == expected


def test_cores_are_shared_unless_the_user_says_how(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setattr(module.os, "cpu_count", lambda: 8)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert [shares(jobs)[0].get("OMP_NUM_THREADS") for jobs in (1, 3, 9)] == [None, "2", "1"]
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    assert shares(3) == [{}, {}, {}]


def test_gpus_are_counted_without_torch(monkeypatch, tmp_path):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}/bin{os.pathsep}/usr/bin")
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\nprintf '0\\n1\\n'\n")
    tool.chmod(0o755)
    assert visible_gpus() == ["0", "1"]
    tool.write_text("#!/bin/sh\nexit 9\n")
    assert visible_gpus() == []
