"""A ``vqlab`` for the tests of sweeps, which writes the files of a run in milliseconds and without torch.

It appends process, run and step to the file FAKE_DIARY. A step takes ``--fake.seconds``, the step ``--fake.fail_at``
fails.
"""

import fcntl
import io
import json
import os
import pickle
import sys
import time
import zipfile
from pathlib import Path

import yaml

EVERY = 5  # steps between checkpoints


def main(command: str, *args: str) -> None:
    options = dict(arg.removeprefix("--").split("=", 1) for arg in args)
    if times := os.environ.get("VQLAB_TIMES"):
        if "fake.fail_at" in options:
            sys.exit("vqlab: error: the fake run has no data")
        step = 10 * float(options.get("model.lr", 0.1))
        write(Path(times), json.dumps({"start": time.time(), "step": step, "validation": 30, "epoch": 4}).encode())
        time.sleep(60)  # the sweep ends it
    ckpt_path = Path(options["ckpt_path"]) if "ckpt_path" in options else None
    if command == "test":
        if not ckpt_path.is_file():
            sys.exit(f"vqlab: error: checkpoint {ckpt_path} does not exist")
        (ckpt_path.parents[1] / "test.csv").write_text("step,time,test/loss\n0,1.0,0.5\n")
        return
    run = Path(options.get("runs", "runs")) / "toy" / options["name"]
    if not ckpt_path and ((run / "config.yaml").exists() or (run / "checkpoints").exists()):
        sys.exit(f"vqlab: error: {run} holds a run")
    config = complete_config(options)
    write(run / "config.yaml", yaml.safe_dump(config).encode())
    log, first, steps = run / "metrics.csv", 0, config["trainer"]["max_steps"]
    lines = ["step,time,train/loss,val/loss"]
    if ckpt_path:
        with zipfile.ZipFile(ckpt_path) as archive:
            first = pickle.loads(archive.read("archive/data.pkl"))["global_step"]
        lines += [line for line in log.read_text().splitlines()[1:] if int(line.split(",")[0]) < first]
    log.write_text("\n".join(lines) + "\n")
    for step in range(first, steps):
        time.sleep(float(options.get("fake.seconds", 0)))
        with open(os.environ["FAKE_DIARY"], "a") as diary:
            fcntl.flock(diary, fcntl.LOCK_EX)
            print(os.getpid(), run.name, step, file=diary)
        if step == int(options.get("fake.fail_at", -1)):
            raise RuntimeError("out of memory in the fake run")
        loss = float(options.get("model.lr", 0.1)) * 100 / (step + 1)
        with log.open("a") as file:
            file.write(f"{step},{time.time()},{loss},{loss + 1}\n")
        if (step + 1) % EVERY == 0 or step + 1 == steps:
            checkpoint = io.BytesIO()
            with zipfile.ZipFile(checkpoint, "w") as archive:
                archive.writestr("archive/data.pkl", pickle.dumps({"global_step": step + 1}))
            for name in ("best", "last"):
                write(run / "checkpoints" / f"{name}.ckpt", checkpoint.getvalue())
    write(run / "finished.json", json.dumps({"step": steps}).encode())


def complete_config(options: dict[str, str]) -> dict:
    """Return every setting in nested mappings, as LightningCLI writes them."""
    config = yaml.safe_load(Path(options["config"]).read_text())
    for name, value in options.items():
        if ("." in name and not name.startswith("fake.")) or name == "seed_everything":
            *parents, last = name.split(".")
            place = config
            for parent in parents:
                place = place.setdefault(parent, {})
                place = place["init_args"] if parent in ("model", "data") else place
            place[last] = yaml.safe_load(value)
    return config


def write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    partial.write_bytes(content)
    partial.replace(path)


if __name__ == "__main__":
    main(*sys.argv[1:])
