"""Health reports nothing in healthy trainings of all models."""

from pathlib import Path

import pytest

from tests.e2e.systems import SYSTEMS, prepare
from tests.e2e.tiny import TRAINER
from vqlab.cli.main import main

STEPS = ["--trainer.max_steps=40", "--trainer.val_check_interval=20", "--trainer.check_val_every_n_epoch=null"]
OFTEN = ["--trainer.log_every_n_steps=1", "--trainer.limit_val_batches=2", "--health.grace_steps=30", "--name=it"]


@pytest.mark.parametrize("system", SYSTEMS)
def test_a_healthy_training(system):
    prepare(system)
    rate = ["--model.lr=0.003"] if system == "DiscreteVAE" else []
    main(["fit", *SYSTEMS[system], *rate, *TRAINER, *STEPS, *OFTEN])
    folder = Path("runs") / system.lower() / "it"
    assert (folder / "finished.json").exists()
    assert not (folder / "health.jsonl").exists(), (folder / "health.jsonl").read_text()
