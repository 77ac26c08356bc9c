"""The W&B workspace, up to what would be sent; W&B itself is not asked."""

import re
import subprocess
import sys

import pytest

from tests.e2e.tiny import fit, logged
from vqlab.cli.wandb_workspace import PICTURES, SECTIONS, create, layout
from vqlab.errors import UserError


def test_without_the_library_or_a_key_it_says_so_in_one_line(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "wandb_workspaces", None)
    with pytest.raises(UserError, match=r"pip install wandb-workspaces$"):
        create([])
    monkeypatch.setattr("vqlab.cli.wandb_workspace.layout", lambda *names: None)
    for name in ("WANDB_API_KEY", "NETRC"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(UserError, match="there is no W&B key: run wandb login"):
        create([])
    done = subprocess.run([sys.executable, "-m", "vqlab.cli.wandb_workspace", "--nam"], capture_output=True, text=True)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)


def test_what_the_plots_ask_for_is_logged():
    fit("--name=first", "--trainer.max_steps=10", "--trainer.val_check_interval=10")
    names = {name for row in logged("runs/vqvae/first/metrics.csv") for name in row} | {"train/samples_per_second"}
    for pattern in (*SECTIONS["Codes"], *SECTIONS["Training"], "^val/loss$", "^val/psnr", "^val/ssim"):
        assert any(re.search(pattern, name) for name in names), pattern


def test_what_would_be_sent():
    pytest.importorskip("wandb_workspaces.workspaces")
    view = layout("me", "mine", "first look")._to_model()
    assert (view.entity, view.project, view.display_name) == ("me", "mine", "first look")
    sections = view.spec.section.panel_bank_config.sections
    assert [section.name for section in sections[:4]] == ["Pictures", *SECTIONS]
    assert [panel.config.media_keys for panel in sections[0].panels] == [[key] for key in PICTURES]
    plots = [panel.config for section in sections[1:4] for panel in section.panels]
    assert [plot.metric_regex for plot in plots] == [p for patterns in SECTIONS.values() for p in patterns]
    assert {plot.x_axis for plot in plots} == {"trainer/global_step"}
