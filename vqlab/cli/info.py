"""``vqlab info``: facts about a checkpoint, from the file and its run's folder, without loading its weights."""

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from vqlab.cli.parser import Parser
from vqlab.errors import UserError
from vqlab.experiments.checkpoint_header import Weight, read_header
from vqlab.experiments.run_state import CONFIG, settings_of
from vqlab.experiments.runs import read_run
from vqlab.experiments.settings import Settings, as_text, flatten, parse_yaml
from vqlab.experiments.text import align, printable, short


def info(args: Sequence[str]) -> None:
    """Run ``vqlab info`` with ``args``."""
    parser = Parser(prog="vqlab info", description="Print facts about a checkpoint, without loading its weights.")
    parser.add_argument("checkpoint", type=Path, help="a .ckpt file of a vqlab run")
    parser.add_argument("--json", action="store_true", help="print it as JSON")
    options = parser.parse_args(args)
    facts = read_facts(options.checkpoint)
    print(json.dumps(facts, indent=2) if options.json else "\n".join(map(printable, lines(facts))))


def read_facts(path: Path) -> dict[str, Any]:
    """Return the facts about a checkpoint, as plain data."""
    header = read_header(path)
    arguments = dict(mapping(header.get("hyper_parameters")))
    class_path, step = arguments.pop("_class_path", None), header.get("global_step")
    if not isinstance(class_path, str) or not isinstance(step, int):
        raise UserError(f"{path} was not made by a vqlab model: it holds weights, but not the class of the model")
    folder = path.absolute().parent.parent
    in_run = (folder / CONFIG).exists()
    # A run that was resumed with other options has a newer config than its older checkpoints.
    settings = config_of(header) or (settings_of(folder) if in_run else {})
    sizes: Counter[str] = Counter()  # values of each part of the model, parameters and buffers
    for name, weight in header["state_dict"].items():
        sizes[str(name).partition(".")[0]] += weight.size if isinstance(weight, Weight) else 0
    return {
        "checkpoint": str(path),
        "bytes": path.stat().st_size,
        "model": class_path.rpartition(".")[2],
        "data": settings.get("data"),
        "step": step,
        "max_steps": settings.get("trainer.max_steps"),
        "epoch": header.get("epoch"),
        "weights": {"values": sizes.total(), "parts": dict(sizes.most_common())},
        "ema": settings.get("ema.decay", True) if "averaging_state" in header else None,
        "made_by": mapping(header.get("made_by")) or {"lightning": header.get("pytorch-lightning_version")},
        "run": read_run(folder).status if in_run else None,
        "metrics": (in_run and run_metrics(folder, step)) or own_metrics(header, settings),
        "model_settings": flatten({"model": {"class_path": class_path, "init_args": arguments}}),
        "data_settings": {name: value for name, value in settings.items() if name.startswith("data.")},
    }


def config_of(header: dict[str, Any]) -> Settings:
    """Return the settings of the run that wrote a checkpoint; none where it does not hold them."""
    content = header.get("config")
    try:
        return flatten(parse_yaml(content.encode(), Path(CONFIG))) if isinstance(content, str) else {}
    except UserError:
        return {}


def run_metrics(folder: Path, step: int) -> dict[str, Any]:
    """Return each validation metric of a run: at the checkpoint's step, best and last; the monitored one first."""
    run = read_run(folder)
    names = [name for name in run.log.series if name.startswith("val/")] or list(run.log.series)
    found = {}
    for name in sorted(names, key=lambda name: (name != run.monitor, name)):
        if figure := run.figure(name):
            found[name] = {"here": dict(run.log.series[name]).get(step), **vars(figure)}
    return found


def own_metrics(header: dict[str, Any], settings: Settings) -> dict[str, Any]:
    """Return the best value so far, which a checkpoint holds for a resumed run."""
    kept = mapping(mapping(header.get("callbacks")).get("LastAndBest"))
    best, step = kept.get("best_score"), kept.get("best_step")
    if not isinstance(best, float) or not isinstance(step, int):
        return {}
    return {settings.get("checkpoint.monitor", "val/loss"): {"best": best, "best_step": step}}


def mapping(value: Any) -> dict[Any, Any]:
    """Return a part of a checkpoint that must be a mapping; an empty one where it is something else."""
    return value if isinstance(value, dict) else {}


def lines(facts: dict[str, Any]) -> Iterator[str]:
    """Yield the facts for a screen."""
    settings = [
        [(name, as_text(value)) for name, value in facts[f"{part}_settings"].items()] for part in ("model", "data")
    ]
    tables: list[Any] = [list(summary(facts)), list(metric_rows(facts["metrics"], facts["step"])), *settings]
    yield facts["checkpoint"]
    for number, table in enumerate(filter(None, tables)):
        yield from [""] * bool(number)
        yield from (f"  {line}" for line in align(table))


def summary(facts: dict[str, Any]) -> Iterator[tuple[str, ...]]:
    """Yield name and text of the facts that are no settings and no metrics."""
    weights, end, decay = facts["weights"], facts["max_steps"], facts["ema"]
    parts = ", ".join(f"{name} {count:,}" for name, count in weights["parts"].items() if count)
    of = f" of {end:,}" if isinstance(end, int) and end > 0 else ""
    yield "model", facts["model"]
    yield "data", facts["data"] or "not recorded"
    yield "step", f"{facts['step']:,}{of}, epoch {facts['epoch']}"
    yield "weights", f"{weights['values']:,} values, buffers included: {parts}"
    yield "ema", "no" if decay is None else "yes" if decay is True else f"the weights are averages, decay {decay}"
    yield "file", f"{facts['bytes'] / 1e6:,.1f} MB"
    yield "made by", ", ".join(f"{name} {text}" for name, text in facts["made_by"].items() if text) or "not recorded"
    if facts["run"]:
        yield "run", facts["run"]


def metric_rows(metrics: dict[str, Any], step: int) -> Iterator[tuple[str, ...]]:
    """Yield a heading and the metrics, without columns that are empty."""
    titles = {"here": f"at step {step:,}", "best": "best", "last": "last"}
    known = [key for key in titles if any(row.get(key) is not None for row in metrics.values())]
    if metrics:
        yield "metric", *(titles[key] for key in known)
    for name, row in metrics.items():
        when = {key: row.get(f"{key}_step") for key in known}
        yield name, *(short(row.get(key)) + ("" if when[key] is None else f" at {when[key]:,}") for key in known)
