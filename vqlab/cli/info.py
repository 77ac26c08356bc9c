"""``vqlab info``: what a checkpoint is, from the file and its run's folder, without loading its weights."""

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from vqlab.cli.parser import Parser
from vqlab.errors import UserError
from vqlab.experiments.checkpoint_header import Weight, read_header
from vqlab.experiments.markup import printable
from vqlab.experiments.run_state import CONFIG, settings_of
from vqlab.experiments.runs import read_run
from vqlab.experiments.settings import Settings, flatten, monitor_of, parse_yaml
from vqlab.experiments.tables import short


def info(args: Sequence[str]) -> None:
    """Run ``vqlab info`` with ``args``.

    Raises:
        UserError: If the file is no checkpoint of a vqlab model; nothing in it is run.
    """
    options = _parser().parse_args(args)
    facts = read_facts(options.checkpoint)
    print(json.dumps(facts, indent=2) if options.json else "\n".join(map(printable, lines(facts))))


def _parser() -> Parser:
    parser = Parser(prog="vqlab info", description="Say what a checkpoint is, without loading its weights.")
    parser.add_argument("checkpoint", type=Path, help="a .ckpt file of a vqlab run")
    parser.add_argument("--json", action="store_true", help="print it as JSON")
    return parser


def read_facts(path: Path) -> dict[str, Any]:
    """Return what can be said of a checkpoint, as plain data.

    Raises:
        UserError: If the file is no checkpoint of a vqlab model.
    """
    outline = read_header(path)
    arguments = dict(mapping(outline.get("hyper_parameters")))
    class_path = arguments.pop("_class_path", None)
    step = outline.get("global_step")
    if not isinstance(class_path, str) or not isinstance(step, int):
        raise UserError(f"{path} was not made by a vqlab model: it holds weights, but not what they are of")
    folder = path.absolute().parent.parent
    in_run = (folder / CONFIG).exists()
    # A run that was resumed with other options has a newer config than its older checkpoints.
    settings = config_of(outline) or (settings_of(folder) if in_run else {})
    return {
        "checkpoint": str(path),
        "bytes": path.stat().st_size,
        "model": class_path.rpartition(".")[2],
        "data": settings.get("data"),
        "step": step,
        "max_steps": settings.get("trainer.max_steps"),
        "epoch": outline.get("epoch"),
        "weights": count_weights(outline["state_dict"]),
        "ema": settings.get("ema.decay", True) if "averaging_state" in outline else None,
        "made_by": mapping(outline.get("made_by")) or {"lightning": outline.get("pytorch-lightning_version")},
        "run": read_run(folder).status if in_run else None,
        "metrics": (in_run and run_metrics(folder, step)) or own_metrics(outline, settings),
        "model_settings": flatten({"model": {"class_path": class_path, "init_args": arguments}}),
        "data_settings": {name: value for name, value in settings.items() if name.startswith("data.")},
    }


def config_of(outline: dict[str, Any]) -> Settings:
    """Return the settings of the run that wrote a checkpoint; none where it does not hold them."""
    text = outline.get("config")
    try:
        return flatten(parse_yaml(text.encode(), Path(CONFIG))) if isinstance(text, str) else {}
    except UserError:
        return {}


def count_weights(state_dict: dict[str, Any]) -> dict[str, Any]:
    """Return how many values there are, of each part of the model as well: parameters and buffers."""
    parts: Counter[str] = Counter()
    for name, weight in state_dict.items():
        parts[str(name).partition(".")[0]] += weight.size if isinstance(weight, Weight) else 0
    return {"tensors": len(state_dict), "values": parts.total(), "parts": dict(parts.most_common())}


def run_metrics(folder: Path, step: int) -> dict[str, Any]:
    """Return each validation metric of a run: at the checkpoint's step, best and last; the monitored one first."""
    run = read_run(folder)
    names = [name for name in run.log.series if name.startswith("val/")] or list(run.log.series)
    found = {}
    for name in sorted(names, key=lambda name: (name != run.monitor, name)):
        if figure := run.figure(name):
            found[name] = {"here": dict(run.log.series[name]).get(step), **vars(figure)}
    return found


def own_metrics(outline: dict[str, Any], settings: Settings) -> dict[str, Any]:
    """Return the best value so far, which a checkpoint holds so that a resumed run can go on from it."""
    kept = mapping(mapping(outline.get("callbacks")).get("LastAndBest"))
    best, step = kept.get("best_score"), kept.get("best_step")
    if not isinstance(best, float) or not isinstance(step, int):
        return {}
    return {monitor_of(settings): {"best": best, "best_step": step}}


def mapping(value: Any) -> dict[Any, Any]:
    """Return a part of a checkpoint that must be a mapping; an empty one where it is something else."""
    return value if isinstance(value, dict) else {}


def lines(facts: dict[str, Any]) -> Iterator[str]:
    """Yield the facts as a person reads them."""
    yield facts["checkpoint"]
    yield from aligned(summary(facts))
    if facts["metrics"]:
        yield ""
        yield from aligned(metric_rows(facts["metrics"], facts["step"]))
    for title in ("model_settings", "data_settings"):
        if facts[title]:
            yield ""
            yield from aligned([(name, told(value)) for name, value in facts[title].items()])


def summary(facts: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield what is no setting and no metric: name and text."""
    weights = facts["weights"]
    parts = ", ".join(f"{name} {count:,}" for name, count in weights["parts"].items() if count)
    yield "model", facts["model"]
    yield "data", facts["data"] or "not recorded"
    end = facts["max_steps"]
    yield (
        "step",
        f"{facts['step']:,}{f' of {end:,}' if isinstance(end, int) and end > 0 else ''}, epoch {facts['epoch']}",
    )
    yield "weights", f"{weights['values']:,} values, buffers included: {parts}"
    decay = facts["ema"]
    yield "ema", "no" if decay is None else "yes" if decay is True else f"the weights are averages, decay {decay}"
    yield "file", f"{facts['bytes'] / 1e6:,.1f} MB"
    yield "made by", ", ".join(f"{name} {text}" for name, text in facts["made_by"].items() if text) or "not recorded"
    if facts["run"]:
        yield "run", facts["run"]


def metric_rows(metrics: dict[str, Any], step: int) -> Iterator[tuple[str, ...]]:
    """Yield a heading and the metrics; a column that nothing is known for is left out."""
    columns = {"here": f"at step {step:,}", "best": "best", "last": "last"}
    columns = {
        key: title for key, title in columns.items() if any(row.get(key) is not None for row in metrics.values())
    }
    yield "metric", *columns.values()
    for name, row in metrics.items():
        yield name, *(short(row.get(key)) + at(row.get(f"{key}_step")) for key in columns)


def at(step: int | None) -> str:
    """Return when a value was reached."""
    return "" if step is None else f" at {step:,}"


def told(value: Any) -> str:
    """Return a value as one would type it."""
    return value if isinstance(value, str) else json.dumps(value)


def aligned(rows: Iterable[Sequence[str]]) -> Iterator[str]:
    """Yield rows with their columns below each other.

    Example:
        >>> list(aligned([("model", "VQVAE"), ("step", "20")]))
        ['  model  VQVAE', '  step   20']
    """
    rows = list(rows)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        yield "  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
