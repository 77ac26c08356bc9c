"""Random numbers depend on seed, step and rank, and on nothing that was drawn before."""

from types import SimpleNamespace

import lightning
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

from tests.helpers.bare import BARE
from vqlab.callbacks.step_seed import StepSeed


def numbers(step, rank=0, world=1, batch_idx=0, accumulate=1):
    trainer = SimpleNamespace(global_step=step, global_rank=rank, world_size=world, accumulate_grad_batches=accumulate)
    StepSeed().on_train_batch_start(trainer, None, None, batch_idx)
    return tuple(torch.randint(2**62, (2,)).tolist())


def test_the_same_step_gives_the_same_numbers_whatever_was_drawn_before():
    first = numbers(5)
    torch.rand(17)
    assert numbers(5) == first
    torch.manual_seed(99)
    assert numbers(5) == first


def test_other_steps_ranks_and_seeds_give_other_numbers(monkeypatch):
    drawn = [numbers(step, rank, 4) for step in range(50) for rank in range(4)]
    for seed in ("1", "2", "4294967295"):
        monkeypatch.setenv("PL_GLOBAL_SEED", seed)
        drawn += [numbers(step, rank, 4) for step in range(50) for rank in range(4)]
    assert len(set(drawn)) == len(drawn)


class Noise(lightning.LightningModule):
    def __init__(self):
        super().__init__()
        self.layer, self.drawn = nn.Linear(1, 1), []

    def training_step(self, batch, batch_idx):
        self.drawn.append(torch.rand(()).item())
        return self.layer(batch).mean()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def drawn(steps, ckpt_path=None, save=None, accumulate=1):
    module = Noise()
    trainer = lightning.Trainer(
        max_steps=steps,
        accumulate_grad_batches=accumulate,
        **BARE,
        callbacks=[StepSeed()],
    )
    trainer.fit(module, DataLoader(torch.zeros(7, 1)), ckpt_path=ckpt_path)
    if save:
        trainer.save_checkpoint(save)
    return module.drawn


@pytest.mark.parametrize("accumulate", [1, 3])
def test_a_resumed_run_draws_what_an_uninterrupted_one_draws(accumulate):
    whole = drawn(12, accumulate=accumulate)
    torch.rand(3)
    first = drawn(5, save="five.ckpt", accumulate=accumulate)
    torch.rand(5)
    assert first + drawn(12, ckpt_path="five.ckpt", accumulate=accumulate) == whole


def test_the_batches_of_one_step_draw_different_numbers():
    """Else the dropout masks of accumulated batches would all be one and the same."""
    values = drawn(6, accumulate=3)
    assert len(values) == 14  # two epochs of 3 + 3 + 1 batches
    assert len(set(values)) == len(values)
