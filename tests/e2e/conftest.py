"""Plots are not rendered, which takes most of the time of a short run; tests/callbacks tests them."""

import pytest
import torch


@pytest.fixture(scope="module", autouse=True)
def _blank_plots():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("vqlab.callbacks.sample_grid.drawn", lambda figure: torch.zeros(3, 8, 8))
        yield
