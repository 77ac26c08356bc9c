"""Each run of the lab logs is a row of an experiment file, with the settings that the log states."""

from pathlib import Path

import pytest

from vqlab.experiments.experiment import read_experiment
from vqlab.experiments.settings import equal

EXPERIMENTS = Path(__file__).parents[2] / "configs/experiments"

# One line per run: settings by their last names. The logs' own tables, not the experiment files, are the source.
TOPIC = "num_topics contrast generator_lr temperature batch_size lr"
SIGNAL = "batch_size lr embedding_dim num_embeddings max_steps encoder.norm encoder.mlp"
JSA = "out_activation model.lr num_mis_steps hold_steps batch_size"
LOGS = {
    "gan_topic_20news": {
        TOPIC: [
            (100, "topic", 1e-6, 0.1, 256, 1e-4),  # 08-18
            (100, "topic", 1e-4, 0.5, 256, 1e-4),
            (75, "topic", 1e-4, 0.5, 256, 1e-4),
            (50, "topic", 1e-4, 0.5, 256, 1e-4),
            (30, "topic", 1e-6, 0.5, 256, 1e-4),
            (20, "topic", 1e-6, 0.5, 256, 1e-4),
            (20, "averaged", 1e-6, 0.5, 256, 1e-4),  # 08-23
            (100, "averaged", 1e-4, 0.5, 256, 1e-4),
            (100, "averaged", 1e-4, 0.5, 1024, 1e-4),  # 08-24, the best coherence
            (75, "averaged", 1e-4, 0.5, 256, 1e-4),
            (50, "averaged", 1e-4, 0.5, 256, 1e-4),
            (30, "averaged", 1e-6, 0.5, 256, 1e-4),
            (50, "averaged", 1e-6, 0.5, 256, 1e-6),  # "very poor"
        ]
    },
    "sgan_mnist": {"batch_size lr labels_per_class": [(64, 2e-4, None), (32, 4e-4, None), (32, 2e-4, None)]},
    "s4dvq_seq": {
        SIGNAL: [
            (64, 1e-3, 512, 256, 10_000, "none", "relu"),
            (64, 1e-3, 512, 512, 12_000, "none", "relu"),
            (128, 1e-3, 512, 256, 8_000, "batch", "linear"),
            (64, 1e-4, 512, 256, 10_000, "none", "relu"),  # "between 1e-3 and 1e-4"
            (64, 1e-5, 512, 256, 10_000, "none", "relu"),  # "at 1e-5 perplexity hardly rises"
        ]
    },
    "jsa_cifar10": {
        JSA: [
            (None, 3.0e-4, 20, 0, 512),
            (None, 2.304e-3, 20, 0, 512),
            (None, 9.52e-5, 20, 0, 512),
            (None, 2.304e-4, 10, 5000, 512),
            (None, 2.304e-4, 20, 5000, 512),
            ("tanh", 3.0e-4, 20, 0, 512),
            ("tanh", 2.304e-4, 20, 0, 512),
            ("tanh", 9.52e-5, 20, 0, 512),
            ("tanh", 2.304e-3, 20, 5000, 512),
            ("tanh", 2.304e-3, 10, 5000, 512),
            ("tanh", 2.304e-4, 20, 5000, 512),
            ("tanh", 2.304e-4, 10, 5000, 512),
        ]
    },
    "vqgan_cifar10": {
        "out_activation perceptual_weight base_lr disc_start batch_size": [
            (out, weight, 4.5e-6, 1_000_000, 512) for out in (None, "tanh") for weight in (0, 1)
        ]
    },
    "font_lr": {
        "schedule.kind lr plateau.patience": [
            (kind, lr, patience)
            for kind, patience in [("constant", None), ("step", None), ("exponential", None), ("constant", 2)]
            for lr in (1e-3, 1e-4)
        ],
        "image_size": [(256,), (512,)],
    },
}


def setting(settings, name):
    """Return the setting whose dotted name ends with ``name``, the shortest if several do."""
    found = [key for key in settings if key == name or key.endswith(f".{name}")]
    return settings[min(found, key=len)] if found else None


@pytest.mark.parametrize("name", LOGS)
def test_each_run_of_the_log_is_a_row(name):
    rows = read_experiment(EXPERIMENTS / f"{name}.yaml").rows
    for names, runs in LOGS[name].items():
        found = [[setting(row.settings, option) for option in names.split()] for row in rows]
        for run in runs:
            assert any(all(map(equal, run, row)) for row in found), f"{names}: {run}"


@pytest.mark.parametrize("name", LOGS)
def test_each_row_runs_on_one_device_unless_the_user_asks_for_more(name):
    for extra, devices in ((), 1), (("--trainer.devices=4",), "4"):
        rows = read_experiment(EXPERIMENTS / f"{name}.yaml", extra).rows
        assert {row.options["trainer.devices"] for row in rows} == {devices}
