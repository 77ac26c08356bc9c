"""``vqlab info``: facts about a checkpoint, from the file and its run folder, without loading its weights."""

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from vqlab.cli.arguments import Parser
from vqlab.errors import UserError
from vqlab.experiments.checkpoint_header import Weight, read_header
from vqlab.experiments.run_state import CONFIG
from vqlab.experiments.runs import Run, read_run
from vqlab.experiments.settings import Settings, as_text, flatten, parse_yaml
from vqlab.experiments.text import align, printable, short


def info(args: Sequence[str]) -> None:
    """Run ``vqlab info`` with ``args``."""
    parser = Parser(prog="vqlab info", description="Print facts about a checkpoint, without loading its weights.")
    parser.add_argument("checkpoint", type=Path, help="a .ckpt file of a vqlab run")
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args(args)
    facts = read_facts(options.checkpoint)
    print(json.dumps(facts, indent=2) if options.json else "\n".join(map(printable, lines(facts))))


def read_facts(path: Path) -> dict[str, Any]:
    """Return the facts about a checkpoint, as plain data."""
    header = read_header(path)
    arguments = dict(mapping(header.get("hyper_parameters")))
    class_path, step = arguments.pop("_class_path", None), header.get("global_step")
    if not isinstance(class_path, str) or not isinstance(step, int):
        raise UserError(f"{path} is not a checkpoint of a vqlab model: the class of the model is not recorded")
    folder = path.absolute().parent.parent
    run = read_run(folder) if (folder / CONFIG).exists() else None
    settings: Settings = {}
    with suppress(UserError):  # not text, or damaged
        settings = flatten(parse_yaml(str(header.get("config", "{}")).encode(), Path(CONFIG)))
    # The run folder's config is newer than older checkpoints if the run was resumed with other options.
    settings = settings or (run.settings if run else {})
    metrics = run_metrics(run, step) if run else {}
    best = mapping(mapping(header.get("callbacks")).get("LastAndBest"))
    if not metrics and isinstance(best.get("best_score"), float) and isinstance(best.get("best_step"), int):
        name = settings.get("checkpoint.monitor", "val/loss")
        metrics = {name: {"best": best["best_score"], "best_step": best["best_step"]}}
    sizes: Counter[str] = Counter()  # number of values in each part of the model, parameters and buffers
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
        "run": run.status if run else None,
        "note": run.note if run else "",
        "metrics": metrics,
        "model_settings": flatten({"model": {"class_path": class_path, "init_args": arguments}}),
        "data_settings": {name: value for name, value in settings.items() if name.startswith("data.")},
    }


def run_metrics(run: Run, step: int) -> dict[str, Any]:
    """Return the validation metrics at the checkpoint's step, best and last; the monitored one comes first."""
    names = [name for name in run.log.series if name.startswith("val/")] or list(run.log.series)
    found = {}
    for name in sorted(names, key=lambda name: (name != run.monitor, name)):
        if figure := run.figure(name):
            found[name] = {"here": dict(run.log.series[name]).get(step), **vars(figure)}
    return found


def mapping(value: Any) -> dict[Any, Any]:
    """Return ``value`` if it is a mapping, else an empty one."""
    return value if isinstance(value, dict) else {}


def lines(facts: dict[str, Any]) -> Iterator[str]:
    """Yield the facts as tables for a terminal."""
    weights, end, decay, step = facts["weights"], facts["max_steps"], facts["ema"], facts["step"]
    parts = ", ".join(f"{name} {count:,}" for name, count in weights["parts"].items() if count)
    of = f" of {end:,}" if isinstance(end, int) and end > 0 else ""
    made_by = ", ".join(f"{name} {text}" for name, text in facts["made_by"].items() if text)
    about = [
        ("model", facts["model"]),
        ("data", facts["data"] or "not recorded"),
        ("step", f"{step:,}{of}, epoch {facts['epoch']}"),
        ("weights", f"{weights['values']:,} values, buffers included: {parts}"),
        ("ema", "no" if decay is None else "yes" if decay is True else f"averaged weights, decay {decay}"),
        ("file", f"{facts['bytes'] / 1e6:,.1f} MB"),
        ("made by", made_by or "not recorded"),
        ("run", facts["run"] or "not found"),
        *([("note", facts["note"])] if facts["note"] else []),
    ]
    metrics = [("metric", f"at step {step:,}", "best", "last")] if facts["metrics"] else []
    for name, row in facts["metrics"].items():
        steps = [f" at {row[key]:,}" if row.get(key) else "" for key in ("best_step", "last_step")]
        metrics.append(
            (name, short(row.get("here")), short(row.get("best")) + steps[0], short(row.get("last")) + steps[1])
        )
    settings = [[(k, as_text(v)) for k, v in facts[f"{part}_settings"].items()] for part in ("model", "data")]
    tables: list[Any] = [about, metrics, *settings]
    yield facts["checkpoint"]
    for table in filter(None, tables):
        yield from (f"  {line}" for line in align(table))
        yield ""
