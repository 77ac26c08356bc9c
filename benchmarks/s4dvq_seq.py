"""The S4D-VQ runs of configs/experiments/s4dvq_seq.yaml on any signals, tested and tabulated.

    python benchmarks/s4dvq_seq.py runs/mitbih --steps 0.1 --data=Signals --data.path=mitbih.npz --data.array=x ...

``--steps`` is the fraction of each row's steps; options of ``vqlab fit`` apply to every row. A tested row is not
repeated. The values are those of the test split, with the best checkpoint in validation. Oscillation is that of the
training loss (reconstruction and commitment): the standard deviation around a linear trend over the last third of the
run, in per cent of the mean.
"""

import argparse
import csv
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import yaml

from vqlab.callbacks.health.history import detrended_spread

ROWS = Path("configs/experiments/s4dvq_seq.yaml")
COLUMNS = ("mse", "snr", "correlation", "spectral_convergence", "perplexity", "codebook_usage", "bits_per_sample")


def main() -> None:
    """Run what is missing, print one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--steps", type=float, default=1.0)
    parser.add_argument("--max-steps", type=int, help="the same number of steps for all rows instead")
    parser.add_argument("--rows", nargs="+")
    parser.add_argument("--jobs", type=int, default=1)
    arguments, common = parser.parse_known_args()
    folder = arguments.folder / "s4dvq"
    folder.mkdir(parents=True, exist_ok=True)
    experiment = yaml.safe_load(ROWS.read_text())
    rows = [row for row in experiment["rows"] if not arguments.rows or row["name"] in arguments.rows]

    def run(row: dict[str, Any]) -> None:
        steps = arguments.max_steps or round(arguments.steps * row["trainer.max_steps"])
        options = {**experiment["common"], **row, "trainer.max_steps": steps, "trainer.val_check_interval": steps // 4}
        name = options.pop("name")
        if (folder / name / "test.csv").exists():
            return
        start = [
            "fit",
            f"--config={experiment['base']}",
            f"--name={name}",
            f"--runs={arguments.folder}",
            "--trainer.log_every_n_steps=5",
        ]
        vqlab(folder / f"{name}.log", [*start, *common, *map(as_option, options.items())])
        vqlab(folder / f"{name}.log", ["test", f"--ckpt_path={folder}/{name}/checkpoints/best.ckpt"])

    with ThreadPoolExecutor(arguments.jobs) as pool:
        list(pool.map(run, rows))
    print("| row | steps | batch | " + " | ".join(COLUMNS) + " | oscillation % |\n" + "|---" * (len(COLUMNS) + 4) + "|")
    for row in rows:
        print("| " + " | ".join(line(folder / row["name"])) + " |")


def vqlab(log: Path, command: list[str]) -> None:
    """Run a command of vqlab on one thread."""
    with log.open("a") as output:
        env = {**os.environ, "OMP_NUM_THREADS": "1"}
        subprocess.run([sys.executable, "-m", "vqlab", *command], env=env, stdout=output, stderr=output, check=True)


def as_option(item: tuple[str, Any]) -> str:
    """Return what a user would type."""
    name, value = item
    return f"--{name}={'null' if value is None else value}"


def line(run: Path) -> list[str]:
    """Return one row of the table."""
    test, log = read(run / "test.csv")[-1], read(run / "metrics.csv")
    config = yaml.safe_load((run / "config.yaml").read_text())
    losses = [float(row["train/loss"]) for row in log if row.get("train/loss")]
    figures = [f"{float(test[f'test/{name}']):.4g}" for name in COLUMNS]
    steps, batch = config["trainer"]["max_steps"], config["data"]["init_args"]["batch_size"]
    return [run.name, str(steps), str(batch), *figures, f"{100 * detrended_spread(losses[-(len(losses) // 3) :]):.1f}"]


def read(file: Path) -> list[dict[str, str]]:
    """Return the lines of a CSV file."""
    with file.open() as lines:
        return list(csv.DictReader(lines))


if __name__ == "__main__":
    main()
