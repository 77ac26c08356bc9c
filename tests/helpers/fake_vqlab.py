"""A ``vqlab`` for the tests of sweeps, which writes the files of a run in milliseconds and without torch.

It appends process, run and step to the file FAKE_DIARY. A step takes ``--fake.seconds``, the step ``--fake.fail_at``
fails; last.ckpt is written every five steps.
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

EVERY = 5


def main(command: str, *args: str) -> None:
    options = dict(arg.removeprefix("--").split("=", 1) for arg in args)
    if command == "test":
        if not Path(options["ckpt_path"]).is_file():
            sys.exit(f"vqlab: error: checkpoint {options['ckpt_path']} does not exist")
        (Path(options["ckpt_path"]).parents[1] / "test.csv").write_text("step,time,test/loss\n0,1.0,0.5\n")
        return
    run = Path(options.get("runs", "runs")) / "toy" / options["name"]
    resumed = "ckpt_path" in options
    if not resumed and ((run / "config.yaml").exists() or (run / "checkpoints").exists()):
        sys.exit(f"vqlab: error: {run} holds a run")
    steps, step = begin(run, options)["trainer"]["max_steps"], 0
    lines = ["step,time,train/loss,val/loss"]
    if resumed:
        with zipfile.ZipFile(options["ckpt_path"]) as archive:
            step = pickle.loads(archive.read("archive/data.pkl"))["global_step"]
        found = (run / "metrics.csv").read_text().splitlines()[1:]
        lines += [line for line in found if int(line.split(",")[0]) < step]
    (run / "metrics.csv").write_text("\n".join(lines) + "\n")
    while step < steps:
        time.sleep(float(options.get("fake.seconds", 0)))
        with open(os.environ["FAKE_DIARY"], "a") as diary:
            fcntl.flock(diary, fcntl.LOCK_EX)
            print(os.getpid(), run.name, step, file=diary)
        if step == int(options.get("fake.fail_at", -1)):
            raise RuntimeError("out of memory, says the fake")
        loss = float(options.get("model.lr", 0.1)) * 100 / (step + 1)
        with (run / "metrics.csv").open("a") as log:
            log.write(f"{step},{time.time()},{loss},{loss + 1}\n")
        step += 1
        if step % EVERY == 0 or step == steps:
            save(run / "checkpoints" / "best.ckpt", step)
            save(run / "checkpoints" / "last.ckpt", step)
    write(run / "finished.json", json.dumps({"step": step}).encode())


def begin(run: Path, options: dict[str, str]) -> dict:
    """Write config.yaml as LightningCLI does: every setting, in nested mappings."""
    config = yaml.safe_load(Path(options["config"]).read_text())
    for name, value in options.items():
        if ("." in name and not name.startswith("fake.")) or name == "seed_everything":
            *parents, last = name.split(".")
            place = config
            for parent in parents:
                place = place.setdefault(parent, {})
                place = place["init_args"] if parent in ("model", "data") else place
            place[last] = yaml.safe_load(value)
    write(run / "config.yaml", yaml.safe_dump(config).encode())
    return config


def save(path: Path, step: int) -> None:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps({"global_step": step}))
    write(path, file.getvalue())


def write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    partial.write_bytes(content)
    partial.replace(path)


if __name__ == "__main__":
    main(*sys.argv[1:])
