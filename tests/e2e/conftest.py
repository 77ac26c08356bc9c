"""What the end-to-end tests share: a run, and plots that are not rendered, which takes most of the time of a run."""

import pytest
import torch

from tests.e2e.tiny import fit


@pytest.fixture(scope="module", autouse=True)
def _blank_plots():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("vqlab.callbacks.sample_grid.drawn", lambda figure: torch.zeros(3, 8, 8))
        yield


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    """Return the folder of a VQ-VAE's run of 20 steps with two validations and an average of the weights."""
    runs, steps = tmp_path_factory.mktemp("runs"), ["--trainer.max_steps=20", "--trainer.val_check_interval=10"]
    fit("--name=first", f"--runs={runs}", *steps, "--ema.decay=0.9")
    return runs / "vqvae/first"
