"""Health reports nothing in healthy trainings of all models."""

from pathlib import Path

import pytest

from tests.e2e.systems import SYSTEMS, prepare
from tests.e2e.tiny import TRAINER
from vqlab.cli.main import main

OFTEN = ["--trainer.log_every_n_steps=1", "--trainer.val_check_interval=20", "--trainer.check_val_every_n_epoch=null"]


@pytest.mark.parametrize("system", SYSTEMS)
def test_a_healthy_training(system):
    prepare(system)
    options = [*TRAINER, *OFTEN, "--trainer.limit_val_batches=2", "--trainer.max_steps=40", "--health.grace_steps=30"]
    main(["fit", *SYSTEMS[system], *options, "--name=it"])
    folder = Path("runs") / system.lower() / "it"
    assert (folder / "finished.json").exists()
    assert not (folder / "health.jsonl").exists(), (folder / "health.jsonl").read_text()
