"""Events of discriminators, of generated data, and of glyphs."""

from typing import ClassVar

import lightning
import pytest
import torch
from torch import nn

from tests.helpers.patient import fit, verdicts
from vqlab.callbacks.health.callback import Health
from vqlab.callbacks.health.rules import ACCURACY
from vqlab.models.sgan import SGAN


class Adversarial(lightning.LightningModule):
    """A model that logs given metrics of a discriminator, and of a validation (functions of the step)."""

    num_classes = 10
    health_hints: ClassVar = {"blur": "draw a finer line"}

    def __init__(self, accuracy=(0.7, 0.3, 0.9, 0.8), **validation):
        super().__init__()
        self.layer, self.accuracy = nn.Linear(2, 1), accuracy
        self.validation = {"diversity": 0.9, "classes_drawn": 9.0, **validation}

    def training_step(self, batch, batch_idx):
        self.log_dict({f"train/{name}": value for name, value in zip(ACCURACY, self.accuracy, strict=True)})
        return self.layer(batch).sum()

    def validation_step(self, batch, batch_idx):
        for name, value in self.validation.items():
            self.log(f"val/{name}", value(self.global_step) if callable(value) else value)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=1e-6)


def glyphs(**metrics):
    return {"l1_gain": 0.3, "grey": 1.0, "retrieval": 0.8, "retrieval_identity": 0.8, **metrics}


@pytest.mark.parametrize(
    ("metrics", "grace", "event", "words"),
    [
        ({}, 30, None, ()),
        ({"accuracy": (0.999, 0.001, 1.0, 1.0)}, 30, "discriminator_too_strong", ["0.999", "disc_lr"]),
        ({"accuracy": (0.999, 0.5, 1.0, 1.0)}, 30, None, ()),
        ({"accuracy": (0.5, 0.5, 0.9, 0.1)}, 30, "discriminator_too_weak", ["90%", "10%", "disc_lr"]),
        ({"accuracy": (0.5, 0.5, 0.9, 0.3)}, 30, None, ()),
        ({"accuracy": (0.999, 0.001, 1.0, 1.0), "diversity": 0.1}, 100, None, ()),
        ({"diversity": 0.1}, 30, "mode_collapse", ["10%", "feature_matching"]),
        ({"classes_drawn": 1.2}, 30, "mode_collapse", ["1.2 of 10"]),
        ({"diversity": lambda step: 0.1 if step == 40 else 0.9}, 30, None, ()),
        (glyphs(), 30, None, ()),
        (glyphs(l1_gain=-0.2), 30, "worse_than_copying", ["20% farther", "--model.lr"]),
        (glyphs(grey=2.5), 30, "blur", ["2.5 times", "draw a finer line"]),
        (glyphs(retrieval=0.5), 30, "content_lost", ["50%", "80%", "--model.l1_weight"]),
        (glyphs(retrieval=0.75), 30, None, ()),
    ],
)
def test_events_of_adversarial_models(metrics, grace, event, words):
    fit(Adversarial(**metrics), Health(gan_grace_steps=grace), val=True, val_check_interval=10, steps=60)
    assert list(verdicts()) == ([event] if event else [])
    if event:
        line = verdicts()[event]
        assert 30 <= line["step"] <= 40
        assert all(word in line["evidence"] + line["mend"] for word in words), line


def test_the_hint_of_collapsed_modes_does_not_name_what_is_already_set():
    model = Adversarial(diversity=0.1)
    model.health_hints = SGAN(objective="feature_matching").health_hints
    fit(model, Health(gan_grace_steps=30), val=True, val_check_interval=10, steps=60)
    assert verdicts()["mode_collapse"]["mend"] == "lower --model.lr"
    assert SGAN().health_hints == {}
