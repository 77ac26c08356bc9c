"""Run folders as a training writes them, with random metrics."""

import json
from pathlib import Path

import torch
import yaml
from torchvision.utils import save_image

from vqlab.training.loggers.csv import CSVLog


def make(folder, model="VQVAE", steps=60, every=2, val_every=20, monitor=("val/loss", "min"), shift=0.0, **settings):
    """Write a run of ``steps`` steps with ``settings`` by name (``__`` for dots); return its log lines."""
    folder = Path(folder)
    quantizer = {"class_path": "vqlab.VectorQuantizer", "init_args": {"num_embeddings": 64}}
    init_args = {"lr": 0.001, "base_lr": None, "quantizer": quantizer}
    config = {
        "seed_everything": 0,
        "trainer": {"max_steps": steps, "devices": 1, "num_nodes": 1, "accumulate_grad_batches": 1},
        "model": {"class_path": f"vqlab.{model}", "init_args": init_args},
        "data": {"class_path": "vqlab.Digits", "init_args": {"batch_size": 32, "seed": 0}},
        "name": None,
        "checkpoint": {"monitor": monitor[0], "mode": monitor[1]},
    }
    for name, value in settings.items():
        *parents, last = name.split("__")
        place = config
        for parent in parents:
            place = place[parent]
            place = place.get("init_args", place)
        place[last] = value
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text("# lightning.pytorch==2.6.6\n" + yaml.safe_dump(config, sort_keys=False))
    lines, log = [], CSVLog(folder)
    for step in range(every - 1, steps, every):
        lines.append((step, {"train/loss": torch.rand(()).item() + 1, "train/samples_per_second": 100.0 + step}))
        if (step + 1) % val_every == 0:
            lines.append((step, {"val/loss": torch.rand(()).item() + shift, "val/psnr": torch.randn(()).item()}))
    for step, metrics in lines:
        log.log_metrics(metrics, step)
    (folder / "samples").mkdir()
    for step in (20, 60):
        save_image(torch.rand(3, 8, 8), folder / "samples" / f"step_{step:06d}.png")
    (folder / "finished.json").write_text(json.dumps({"step": steps, "time": 1.0}))
    return lines


def last_and_best(lines, metric, mode):
    """Return (last, its step, best, its step) of a metric in log lines."""
    values = [(metrics[metric], step + 1) for step, metrics in lines if metric in metrics]
    return *values[-1], *min(values, key=lambda value: value[0] if mode == "min" else -value[0])


def add_event(folder, event, step, evidence="so it is", hint="set --model.lr=1", key="hint"):
    """Add a line to health.jsonl."""
    with (Path(folder) / "health.jsonl").open("a") as log:
        log.write(json.dumps({"time": 1.0, "step": step, "event": event, "evidence": evidence, key: hint}) + "\n")
