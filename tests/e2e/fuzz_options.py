"""Hostile options and configuration files, drawn by a random number generator."""

import random
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from tests.e2e.fuzz_stock import BASES, SHORT, Stock
from tests.e2e.tiny import TRAINER

VALUES = [
    *("nan", "inf", "-inf", "-1", "0", "1", "3", "7", "1000000000", "99999999999999999999", "1e9", "0.5", "1e-300"),
    *("abc", "", '""', "null", "[]", "[1,2]", "[[]]", "[null]", "{}", "{a: 1}", "true", "-0.5", "1e300", "zürich-字"),
    *("../x", "missing/file.npz", "/dev/zero/x", "/proc/self/mem", "a b", "[0]", "[-1,1]", "[nan,nan]", "2", "\u2028"),
    *("os.system", "torch.nn.Linear", "lightning.Callback", "builtins.exec", "!!python/name:os.system", "&a [*a]"),
]
COUNTS = ["-1", "0", "1", "2", "3", "5", "1000", "1000000", "2147483648", "1000000000000", "99999999999999999999"]
SHARES = [
    "nan",
    "inf",
    "-inf",
    "-1",
    "-1e-9",
    "0",
    "1e-300",
    "1e-9",
    "0.5",
    "1",
    "1.0000001",
    "2",
    "1000",
    "1e38",
    "1e300",
]
LINES = ["\t- x", "{", "]: [", "a: &a [*a]", "? !!binary abc", "unknown: 1", "%YAML 9.9", "\x00", "\ud83d", "- 1", '"']
# What they ask for is to wait for other machines, to run for ever, or to start this test again in other processes.
NEVER = {"trainer.num_nodes", "trainer.min_steps", "trainer.min_epochs", "ckpt_path"}
LONG = {"num_mis_steps", "nll_samples", "test_nll_samples", "n_critic"}
MANY = {"trainer.devices": {"2", "3", "5", "7", "1000"}, "data.num_workers": {"5", "7", "1000"}}


def option_case(rng: random.Random, folder: Path, stock: Stock) -> list[str]:
    """Return a training with one or two options of a system changed."""
    base = rng.choice(list(BASES))
    stock.put_needs(base, folder)
    options = {name: value for name, value in flatten(yaml.safe_load(stock.config(base))) if name not in NEVER}
    # The options of model and data are more of vqlab than those of Lightning's Trainer.
    names, ours = list(options), [name for name in options if not name.startswith("trainer.")]
    changed = {}
    for _ in range(rng.choice([1, 1, 2])):
        name = rng.choice(ours if rng.random() < 0.8 else names)
        values = VALUES
        if isinstance(options[name], (int, float)) and rng.random() < 0.8:  # of the type that is asked for
            values = COUNTS if isinstance(options[name], int) else SHARES
        changed[name] = rng.choice([value for value in values if not too_much(name, value)])
    if len({"trainer.max_steps", "trainer.max_epochs"} & changed.keys()) == 2:
        del changed["trainer.max_steps"]
    return ["fit", *BASES[base], *TRAINER, *SHORT, *(f"--{name}={value}" for name, value in changed.items())]


def config_case(rng: random.Random, folder: Path, stock: Stock) -> list[str]:
    """Return a training from a configuration file with a line or a value that does not belong there."""
    base = rng.choice(list(BASES))
    stock.put_needs(base, folder)
    lines = stock.config(base).splitlines()
    place = rng.randrange(len(lines))
    while re.match(rf" *({'|'.join(name.rpartition('.')[2] for name in NEVER | MANY.keys())}):", lines[place]):
        place = rng.randrange(len(lines))
    match rng.choice(["drop", "retype", "retype", "retype", "insert", "cut", "indent", "twice", "flip"]):
        case "drop":
            del lines[place]
        case "retype":
            lines[place] = f"{lines[place].partition(':')[0]}: {rng.choice(VALUES)}"
        case "insert":
            lines.insert(place, " " * rng.randrange(8) + rng.choice(LINES))
        case "cut":
            del lines[place:]
        case "indent":
            lines[place] = " " * rng.randrange(1, 5) + lines[place].strip()
        case "twice":
            lines.insert(rng.randrange(len(lines)), lines[place])
        case "flip":
            line = [*lines[place]]
            line[rng.randrange(len(line))] = chr(rng.randrange(1, 256))
            lines[place] = "".join(line)
    path = folder / rng.choice(["a.yaml", "ä b.yaml", "字.yml", "no_suffix"])
    path.write_bytes("\n".join(lines).encode(errors="surrogatepass"))
    return ["fit", "--config", path.name, *SHORT]


def too_much(name: str, value: str) -> bool:
    """Whether the option asks for many processes, or for hours of work that a user may well want."""
    long = name.rpartition(".")[2] in LONG and len(value) > 3
    return long or value in MANY.get(name, ())


def flatten(config: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the options of a configuration as they are typed, ``model.encoder.hidden_channels``, with their values."""
    for name, value in config.items():
        if name == "class_path":
            yield prefix.rstrip("."), value
        elif isinstance(value, dict) and value:
            yield from flatten(value, prefix if name == "init_args" else f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value
