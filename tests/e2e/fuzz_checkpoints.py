"""Damaged, foreign and malicious checkpoints, drawn by a random number generator."""

import os
import pickle
import random
import shutil
from pathlib import Path
from typing import Any

import torch

from tests.e2e.fuzz_damage import damage
from tests.e2e.fuzz_options import VALUES
from tests.e2e.fuzz_stock import BASES, SHORT, Stock
from tests.e2e.tiny import TRAINER

EXECUTED = "executed"  # the file that malicious checkpoints try to make
TRAINED = ["VQVAE", "JSA", "SGAN", "GANTopicModel", "CodePrior", "Residual"]
DRAWING = ["num", "label", "temperature", "top-k", "top-p", "guidance", "seed", "out", "columns"]
WRONG = [None, -1, 10**18, 1e308, float("nan"), "abc", "../x", [], {}, [None], True, b"x", torch.zeros(3), {"a": {}}]


class Malice:
    """Runs a shell command when it is unpickled without care."""

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, (f"touch {EXECUTED}",)


def checkpoint_case(rng: random.Random, folder: Path, stock: Stock) -> list[str]:
    """Return a command on a checkpoint that is spoiled, or another model's."""
    base = rng.choice(TRAINED)
    stock.put_needs(base, folder)
    run = folder / "runs" / rng.choice(["it", "ö 字"])
    shutil.copytree(stock.run(base), run)
    path = run / "checkpoints/last.ckpt"
    match rng.choice(["damage", "damage", "malice", "entry", "entry", "entry", "other", "fine", "folder"]):
        case "damage":
            damage(rng, path)
        case "malice":
            plant(rng, path)
        case "entry":
            spoil_entry(rng, path)
        case "folder":
            damage(rng, rng.choice(sorted(path for path in run.iterdir() if path.is_file())))
        case "other":
            shutil.copy(stock.run(rng.choice(TRAINED)) / "checkpoints/last.ckpt", path)
    given = os.path.relpath(path, folder)
    tokenizer = [*BASES["CodePrior"], *TRAINER, *SHORT, f"--model.tokenizer={given}"]
    return rng.choice(
        [
            ["fit", f"--ckpt_path={given}", "--trainer.max_steps=4", "--trainer.max_epochs=1"],
            ["fit", *BASES[base], *TRAINER, *SHORT, "--trainer.max_steps=4", f"--ckpt_path={given}"],
            ["test", f"--ckpt_path={given}", "--trainer.limit_test_batches=1"],
            ["validate", f"--ckpt_path={given}"],
            ["predict", f"--ckpt_path={given}", "--trainer.limit_predict_batches=1"],
            ["sample", given, "--num=2", f"--{rng.choice(DRAWING)}={rng.choice(VALUES)}"],
            ["fit", *tokenizer],
        ]
    )


def plant(rng: random.Random, path: Path) -> None:
    """Put code that runs on unpickling into a checkpoint."""
    whole = torch.load(path, weights_only=True)
    match rng.choice(["bare", "zip", "weights", "hyper_parameters", "class_path", "legacy"]):
        case "bare":
            path.write_bytes(pickle.dumps(Malice()))
        case "zip":
            torch.save(Malice(), path)
        case "weights":
            whole["state_dict"]["encoder.weight"] = Malice()
            torch.save(whole, path)
        case "hyper_parameters":
            whole["hyper_parameters"]["lr"] = Malice()
            torch.save(whole, path)
        case "class_path":
            spec = {"class_path": rng.choice(["os.system", "builtins.exec", "subprocess.Popen", "vqlab.cli.main.main"])}
            part = rng.choice([*whole["hyper_parameters"]])
            whole["hyper_parameters"][part] = spec | {"init_args": {"command": f"touch {EXECUTED}"}}
            torch.save(whole, path)
        case "legacy":
            torch.save({"state_dict": {}, "x": Malice()}, path, _use_new_zipfile_serialization=False)


def spoil_entry(rng: random.Random, path: Path) -> None:
    """Drop or replace one entry of a checkpoint, at any depth."""
    whole: Any = torch.load(path, weights_only=True)
    place = whole
    key = rng.choice(list(place))
    while isinstance(place[key], dict) and place[key] and rng.random() < 0.75:
        place = place[key]
        key = rng.choice(list(place))
    value = place[key]
    if rng.random() < 0.3:
        del place[key]
    elif isinstance(value, torch.Tensor) and rng.random() < 0.7:
        place[key] = rng.choice(
            [
                value.double() * float("nan"),
                value.half(),
                value.to(torch.int64),
                value[..., :1] if value.ndim else value + 1,
                value.flatten()[:1].expand(10**12) if value.numel() else value,
                value.to("meta"),
                value.to(torch.complex64),
            ]
        )
    else:
        place[key] = rng.choice(WRONG)
    torch.save(whole, path)
