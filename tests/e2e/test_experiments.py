"""Every row of every experiment file trains, on embedded data and with few batches."""

import pytest

from tests.e2e.tiny import ROOT, TRAINER
from tests.helpers.forks import Forked
from vqlab.experiments.experiment import read_experiment

FILES = sorted((ROOT / "configs/experiments").glob("*.yaml"))
QUICK = ["--trainer.max_steps=3", "--trainer.val_check_interval=3", "--trainer.limit_val_batches=1", *TRAINER]
QUICK += ["--data.batch_size=4", "--trainer.log_every_n_steps=1"]
IMAGES = ["--data=Digits", "--data.image_size=32"]
EMBEDDED = {
    "digits": [],
    "font_lr": [],
    "gan_topic_20news": ["--data=Docstrings", "--data.packages=[skimage]"],
    "jsa_cifar10": [*IMAGES, "--model.evaluation.nll_samples=2"],
    "s4dvq_seq": ["--data.num_records=20", "--data.seconds=12"],
    "sgan_mnist": IMAGES,
    "vqgan_cifar10": [*IMAGES, "--model.perceptual_weight=0"],  # LPIPS would be downloaded
}


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_row_trains(path):
    experiment = read_experiment(path, [*EMBEDDED[path.stem], *QUICK])
    for row in experiment.rows:
        status, output = Forked(*experiment.fit(row)).end()
        assert status == 0, f"{row.name}: {output[-2000:]}"
        assert (experiment.folder(row) / "finished.json").exists()
