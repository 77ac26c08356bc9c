"""Verdicts on players, on what they make, and on glyphs."""

from typing import ClassVar

import lightning
import pytest
import torch
from torch import nn

from tests.helpers.patient import fit, verdicts
from vqlab.callbacks.health.callback import Health
from vqlab.callbacks.health.training_rules import PLAYERS
from vqlab.models.sgan import SGAN


class Game(lightning.LightningModule):
    """A GAN whose figures are told by the test."""

    num_classes = 10

    def __init__(self, players=(0.7, 0.3, 0.9, 0.8), diversity=0.9, drawn=9.0):
        super().__init__()
        self.layer = nn.Linear(2, 1)
        self.players, self.diversity, self.drawn = players, diversity, drawn

    def training_step(self, batch, batch_idx):
        self.log_dict({f"train/{name}": value for name, value in zip(PLAYERS, self.players, strict=True)})
        return self.layer(batch).sum()

    def validation_step(self, batch, batch_idx):
        self.log_dict({"val/diversity": self.diversity, "val/classes_drawn": self.drawn})

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=1e-6)


@pytest.mark.parametrize(
    ("game", "said"),
    [
        ({}, None),
        ({"players": (0.999, 0.001, 1.0, 1.0)}, "discriminator_too_strong"),
        ({"players": (0.999, 0.5, 1.0, 1.0)}, None),
        ({"players": (0.5, 0.5, 0.9, 0.1)}, "discriminator_too_weak"),
        ({"players": (0.5, 0.5, 0.9, 0.3)}, None),
        ({"diversity": 0.1}, "mode_collapse"),
        ({"drawn": 1.2}, "mode_collapse"),
    ],
)
def test_players_out_of_balance_and_collapsed_modes(game, said):
    fit(Game(**game), Health(gan_grace_steps=30), val=True, val_check_interval=10, steps=60)
    assert list(verdicts()) == ([said] if said else [])
    if said:
        assert 30 <= verdicts()[said]["step"] <= 40


def test_modes_that_come_back_are_no_collapse():
    class Recovering(Game):
        def validation_step(self, batch, batch_idx):
            self.log_dict({"val/diversity": 0.1 if self.global_step == 40 else 0.9, "val/classes_drawn": 9.0})

    fit(Recovering(), Health(gan_grace_steps=30), val=True, val_check_interval=10, steps=60)
    assert verdicts() == {}


def test_the_mend_of_collapsed_modes_does_not_name_what_is_set():
    game = Game(diversity=0.1)
    game.health_hints = SGAN(objective="feature_matching").health_hints
    fit(game, Health(gan_grace_steps=30), val=True, val_check_interval=10, steps=60)
    assert verdicts()["mode_collapse"]["mend"] == "lower --model.lr"
    assert SGAN().health_hints == {}


def test_players_are_not_judged_within_the_grace():
    fit(Game((0.999, 0.001, 1.0, 1.0), 0.1), Health(gan_grace_steps=100), val=True, val_check_interval=10, steps=60)
    assert verdicts() == {}


class Drawing(Game):
    """A GAN of glyphs, whose advice is its own."""

    health_hints: ClassVar = {"blur": "draw a finer line"}

    def __init__(self, gain=0.3, grey=1.0, retrieval=0.8):
        super().__init__()
        self.glyphs = {"l1_gain": gain, "grey": grey, "retrieval": retrieval, "retrieval_identity": 0.8}

    def validation_step(self, batch, batch_idx):
        self.log_dict({f"val/{name}": value for name, value in self.glyphs.items()})


@pytest.mark.parametrize(
    ("glyphs", "said"),
    [
        ({}, {}),
        ({"gain": -0.2}, {"worse_than_copying": ["20% farther", "--model.lr"]}),
        ({"grey": 2.5}, {"blur": ["2.5 times", "draw a finer line"]}),
        ({"retrieval": 0.5}, {"content_lost": ["50%", "80%", "--model.l1_weight"]}),
        ({"retrieval": 0.75}, {}),
    ],
)
def test_glyphs_that_are_worse_than_copies(glyphs, said):
    fit(Drawing(**glyphs), Health(gan_grace_steps=30), val=True, val_check_interval=10, steps=40)
    assert list(verdicts()) == list(said)
    for event, words in said.items():
        line = verdicts()[event]
        assert line["step"] == 30
        assert all(word in line["evidence"] + line["mend"] for word in words), line
