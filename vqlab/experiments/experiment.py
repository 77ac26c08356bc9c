"""An experiment file: a base config and rows of options; each row is one run."""

import itertools
import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vqlab.errors import UserError, suggest
from vqlab.experiments.settings import Settings, as_flag, overlay, read_yaml, scale_steps, stack

KEYS = ("base", "common", "rows", "grid", "seeds", "questions")
NAME = re.compile(r"[\w=+][\w.=+-]*")
SEEDED = ("seed_everything", "data.seed")  # a repeat sets both: weights and noise; split, order and choice of labels
NOT_IN_A_ROW = ("name", "runs", "config", "ckpt_path")  # set by the sweep


@dataclass(frozen=True)
class Row:
    """One run of an experiment."""

    name: str  # name of the run folder
    label: str  # name without the seed
    options: Settings  # command-line options after ``--config``, by dotted name
    settings: Settings  # options and settings of the configs, without the defaults of the classes


@dataclass(frozen=True)
class Question:
    """A question that rows of an experiment answer."""

    ask: str
    rows: tuple[str, ...] = ()  # names without seed; default: all
    metric: str | None = None  # by which rows are compared; default: the monitored one
    against: str | None = None  # a metric whose rank correlation with ``metric`` is the answer


@dataclass(frozen=True)
class Experiment:
    """A base config, overlays, and rows."""

    path: Path  # the experiment file
    runs: Path  # folder of all runs
    configs: tuple[Path, ...]  # the base config, and the ``--config`` files of the command line
    rows: tuple[Row, ...]  # including the repeats for each seed
    scale: float = 1.0  # by which the settings that count training steps are multiplied
    budget: str = ""  # time for which the scale was chosen
    command: str = ""  # that runs the rows
    questions: tuple[Question, ...] = ()

    def folder(self, row: Row) -> Path:
        """Return the run folder of ``row``."""
        return self.runs / str(row.settings["model"]).rpartition(".")[2].lower() / row.name

    def place(self, row: Row) -> dict[str, Any]:
        """Return what a report tells about ``row``: the experiment, the place by which it sorts, and how it was run."""
        facts = {"experiment": self.path.stem, "place": self.rows.index(row), "command": self.command}
        return facts | {"scale": self.scale, "budget": self.budget}

    def fit(self, row: Row) -> list[str]:
        """Return the arguments of ``vqlab`` that train ``row``."""
        runs = [] if str(self.runs) == "runs" else [f"--runs={self.runs}"]
        configs = [f"--config={config}" for config in self.configs]
        return ["fit", *configs, f"--name={row.name}", *runs, *itertools.starmap(as_flag, row.options.items())]


def read_experiment(path: Path, extra: Sequence[str] = (), runs: Path = Path("runs"), scale: float = 1.0) -> Experiment:
    """Read an experiment file; raises UserError if it is missing or wrong.

    ``extra`` holds options of ``vqlab fit`` that override the file in every row. ``scale`` multiplies every other
    setting that counts training steps.
    """
    if not (scale > 0 and math.isfinite(scale)):
        raise UserError(f"scale-steps must be a positive number, got {scale:g}")
    if not path.is_file():
        raise UserError(f"experiment file {path} does not exist: see configs/experiments")
    content = read_yaml(path)
    for key in content:
        if key not in KEYS:
            raise UserError(f"unknown key {key!r} in {path}: {suggest(str(key), KEYS)}")
    typed, overlays = parse_options(extra)
    if not isinstance(base := content.get("base"), str):
        raise UserError(f"{path} has no base config: add base: configs/vqvae.yaml")
    # The base config is relative to the current folder or to a parent of the experiment file.
    found = next((folder / base for folder in (Path(), *path.absolute().parents) if (folder / base).is_file()), None)
    if found is None:
        raise UserError(f"base config {base} of {path} does not exist: correct base")
    configs = (found, *overlays)
    shared = overlay({}, *map(read_yaml, configs))
    # A row starts no more processes than the file or the user asks for.
    devices = {} if "trainer.devices" in shared else {"trainer.devices": 1}
    common = check_options(content.get("common") or {}, f"common of {path}")
    rows = []
    for label, options in read_points(content, path):
        fixed = {**common, **options, **typed}
        for seed in read_seeds(content, fixed, path):
            name = label if seed is None else f"{label}_seed{seed}"
            # A data.seed in the file fixes the split.
            seeding = {key: seed for key in SEEDED if seed is not None and key not in fixed}
            settings = overlay(shared, common, seeding, options)
            scaled = scale_steps(settings, scale) if scale != 1 else {}
            settings = overlay(settings, scaled, typed)
            if not settings.get("model"):
                raise UserError(f"{configs[0]} has no model: set model in it, or in common of {path}")
            scaled = {key: value for key, value in scaled.items() if key not in typed}
            rows.append(Row(name, label, stack(devices, common, {**seeding, **options}, scaled, typed), settings))
    if twice := [name for name, count in Counter(row.name for row in rows).items() if count > 1]:
        raise UserError(f"{path} has two rows of the name {twice[0]}: change one of them")
    questions = read_questions(content, {row.label for row in rows}, path)
    return Experiment(path, runs, configs, tuple(rows), scale, questions=questions)


def read_points(content: dict[str, Any], path: Path) -> Iterator[tuple[str, Settings]]:
    """Yield name and options of each row at each point of the grid; without rows, the grid has one unnamed row."""
    grid = check_options(content.get("grid") or {}, f"grid of {path}")
    for option, values in grid.items():
        if not isinstance(values, list) or not values:
            raise UserError(f"{option} in grid of {path} must be a list of values: {option}: [1, 2]")
    short, unnamed = short_names(grid), {"name": "" if grid else path.stem}
    rows = content.get("rows")
    if rows is None:
        rows = [unnamed] if grid or content.get("seeds") else []
    if not isinstance(rows, list) or not all(isinstance(row, dict) and "name" in row for row in rows):
        raise UserError(f"rows of {path} must be a list of mappings with a name: - {{name: first, model.lr: 1.0e-3}}")
    for row in rows:
        name = str(row["name"])
        if row is not unnamed and not NAME.fullmatch(name):
            raise UserError(f"row name {name!r} of {path} cannot be a folder: use letters, digits and _ . = + -")
        options = {key: value for key, value in row.items() if key != "name"}
        check_options(options, f"row {name} of {path}")
        for values in itertools.product(*grid.values()):
            texts = [re.sub(r"[^\w.+-]+", "-", as_flag("", value).partition("=")[2]) for value in values]
            parts = [f"{short[option]}={text.strip('-.') or '-'}" for option, text in zip(grid, texts, strict=True)]
            yield "_".join(filter(None, [name, *parts])), options | dict(zip(grid, values, strict=True))


def read_questions(content: dict[str, Any], labels: set[str], path: Path) -> tuple[Question, ...]:
    """Return the questions of an experiment file."""
    questions = content.get("questions") or []
    form = "questions of {} must be a list such as - {{ask: 'Which rate?', rows: [slow, fast], metric: val/psnr}}"
    if not isinstance(questions, list):
        raise UserError(form.format(path))
    found = []
    for question in questions:
        try:
            found.append(Question(**question))
        except TypeError as error:
            raise UserError(f"{form.format(path)}, got {question}") from error
        for name in found[-1].rows:
            if name not in labels:
                raise UserError(f"questions of {path} name a row {name!r}: {suggest(str(name), sorted(labels))}")
    return tuple(found)


def read_seeds(content: dict[str, Any], others: Settings, path: Path) -> list[int | None]:
    """Return the seeds of the repeats, ``[None]`` without repeats."""
    seeds = content.get("seeds")
    if seeds is None:
        return [None]
    whole = isinstance(seeds, list) and all(type(seed) is int and 0 <= seed < 2**32 for seed in seeds)
    if not whole or not seeds or len(set(seeds)) < len(seeds):
        raise UserError(f"seeds of {path} must be a list of different integers of at least 0, got {seeds}")
    if "seed_everything" in others:
        raise UserError(f"{path} has seeds, and seed_everything is set too: leave out one of the two")
    return list(seeds)


def check_options(options: Any, where: str) -> Settings:
    """Return ``options``; raises UserError unless they have the form of options of ``vqlab fit``."""
    if not isinstance(options, dict):
        raise UserError(f"{where} must be a mapping of options to values, such as model.lr: 1.0e-3")
    for option in options:
        if not re.fullmatch(r"[A-Za-z_][\w.]*", str(option)):
            raise UserError(f"{where} has an option {option!r}: write it as model.lr, without --")
        if option in NOT_IN_A_ROW:
            raise UserError(f"{where} sets {option}, which the sweep sets itself: leave it out")
    return options


def parse_options(tokens: Sequence[str]) -> tuple[Settings, list[Path]]:
    """Return the options of a command line by name, and its ``--config`` files."""
    options: Settings = {}
    configs = []
    rest = [token for token in tokens if token != "--"]
    while rest:
        token = rest.pop(0)
        if not token.startswith("-"):
            raise UserError(f"unexpected {token!r}: options of vqlab fit look like --data.path=images.npz")
        name, equals, value = token.lstrip("-").partition("=")
        if not equals:
            if not rest or re.match(r"--?[A-Za-z]", rest[0]):
                raise UserError(f"--{name} needs a value: write --{name}=...")
            value = rest.pop(0)
        if name in ("config", "c"):
            configs.append(Path(value))
        else:
            options |= check_options({name: value}, "the command line")
    return options, configs


def short_names(options: Iterable[str]) -> dict[str, str]:
    """Return the shortest unique endings of dotted names."""
    options = list(options)
    return dict(zip(options, shortest_ends([option.split(".") for option in options], "."), strict=True))


def shortest_ends(names: Sequence[Sequence[str]], separator: str) -> list[str]:
    """Return the shortest unique end of each name, a list of parts, or the whole name if no end is unique."""
    ends = [[separator.join(parts[-n:]) for n in range(1, len(parts) + 1)] for parts in names]
    seen = Counter(end for all_of_one in ends for end in all_of_one)
    return [next((end for end in all_of_one if seen[end] == 1), all_of_one[-1]) for all_of_one in ends]
