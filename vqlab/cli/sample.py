"""``vqlab sample``: draw images from any generative model into one picture, and evaluate them."""

import inspect
import shlex
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import vqlab
from vqlab.atomic_io import write_atomic
from vqlab.cli.arguments import Parser
from vqlab.cli.errors import constructor_arguments
from vqlab.cli.info import read_facts
from vqlab.errors import UserError
from vqlab.experiments.settings import as_flag

if TYPE_CHECKING:
    from torch import Tensor

BATCH = 64  # images drawn at once, and shown if metrics are computed
MANY = 2000  # images above which progress is shown


def sample(args: Sequence[str]) -> None:
    """Run ``vqlab sample`` with ``args``."""
    parser = Parser(prog="vqlab sample", description="Draw images from a trained model into one PNG.")
    add = parser.add_argument
    add("checkpoint", help="a .ckpt file of a model that can sample, such as CodePrior or SGAN")
    add("--num", type=int, default=64, help="how many images (default 64)")
    add("--label", help="class to draw, or all: one class after the other; default: any class")
    add("--temperature", type=float, help="below 1: more probable, less diverse codes (default 1)")
    add("--top-k", type=int, help="draw from the k most probable codes")
    add("--top-p", type=float, help="draw from the most probable codes with a total probability of p")
    add("--guidance", type=float, help="scale of classifier-free guidance (default 1: none)")
    add("--steps", type=int, help="passes of the network, for MaskedPrior (default 8)")
    add("--choice-temperature", type=float, help="noise of the confidence, for MaskedPrior (default 4.5)")
    add("--seed", type=int, default=0, help="the same seed draws the same images (default 0)")
    add("--out", default="samples.png", help="file to write (default samples.png)")
    add("--columns", type=int, default=8, help="images per row (default 8)")
    add(
        "--metrics",
        action="store_true",
        help="evaluate the images beside reference images (Frechet and kernel distance, precision, recall, density, "
        f"coverage), and write the metrics beside the picture, as samples.json; the picture shows the first {BATCH}",
    )
    add(
        "--reference",
        help="reference images: test (default), val or train, of the data that the model was trained on, or a .npz or "
        ".npy file or a folder of images; implies --metrics",
    )
    add("--net", default="efficientnet_lite0", help="network of the metrics (default efficientnet_lite0)")
    options = parser.parse_args(args)
    evaluates = options.metrics or options.reference is not None
    least = 6 if evaluates else 1
    if options.num < least:
        raise UserError(f"--num must be at least {least}{' with --metrics' * evaluates}, got {options.num}")
    if options.label not in (None, "all") and not options.label.isdecimal():
        raise UserError(f"--label must be a number or all, got {options.label!r}")
    out = Path(options.out)
    if out.suffix.lower() != ".png":
        raise UserError(f"{out} must end in .png: set --out samples.png")

    import torch  # late, so that help and wrong options are answered quickly
    from torchvision.utils import save_image

    from vqlab.callbacks.sample_grid import interleave
    from vqlab.training.checkpoint import load

    model: Any = load(options.checkpoint)
    names = ("label", "temperature", "top_k", "top_p", "guidance", "steps", "choice_temperature")
    given = {name: value for name in names if (value := getattr(options, name)) is not None}
    taken = _parameters_of_sample(model, options.checkpoint)
    if unknown := next((name for name in given if name not in taken), None):
        raise UserError(f"{type(model).__name__} has no option {unknown}: leave out --{unknown.replace('_', '-')}")
    evaluation = None
    if evaluates:
        from vqlab.cli.evaluation import Evaluation

        evaluation = Evaluation(options.reference or "test", options.net, options.seed, options.checkpoint, model)
    model.to("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(options.seed)
    arguments: dict[str, Any] = dict(given)
    if "generator" in taken:
        arguments["generator"] = torch.Generator().manual_seed(options.seed)  # the same draws on every device

    def draw(first: int, count: int) -> torch.Tensor:
        if "label" in given:
            every = torch.arange(first, first + count) % max(1, getattr(model, "num_classes", 0))
            arguments["label"] = every if given["label"] == "all" else int(given["label"])
        return model.value_range.decode(model.sample(count, **arguments))

    batches = (draw(first, min(BATCH, options.num - first)) for first in range(0, options.num, BATCH))
    shown: list[torch.Tensor] = []
    with torch.no_grad():
        for images in with_progress(batches, options.num, "drew", "images"):
            if evaluation is None or not shown:
                shown.append(images.cpu())
            if evaluation is not None:
                evaluation.add(images)
    grid = interleave({"sample": torch.cat(shown)}, options.columns)
    with write_atomic(out, "--out") as file:
        save_image(grid, file, format="png")
    size = f"{images.shape[-1]} x {images.shape[-2]} each"
    first = f"the first {BATCH} of " * (evaluates and options.num > BATCH)
    print(f"{out}: {first}{options.num} samples of {type(model).__name__}, {size}")
    if evaluation is not None:
        facts = {"checkpoint": options.checkpoint, "num": options.num, "seed": options.seed, **given}
        evaluation.write(out.with_suffix(".json"), facts)


def _parameters_of_sample(model: Any, checkpoint: str) -> Any:
    """Return the parameters of ``model.sample``; raise UserError if it does not draw images."""
    name = type(model).__name__
    if not hasattr(model, "sample"):
        hint = "give a checkpoint of a generative model of images"
        if all(hasattr(model, verb) for verb in ("encode", "decode", "images")):
            facts = read_facts(Path(checkpoint))
            data = getattr(vqlab, facts["data"] or "", None)
            known = constructor_arguments(data) if data else {}
            defaults = {f"data.{name}": parameter.default for name, parameter in known.items()}
            chosen = {key: value for key, value in facts["data_settings"].items() if value != defaults.get(key)}
            options = {"model.tokenizer": checkpoint, "data": facts["data"] or "...", **chosen}
            flags = shlex.join(as_flag(key, value) for key, value in options.items())
            hint = f"vqlab fit --config configs/prior.yaml {flags}"
        raise UserError(f"{name} cannot sample without a prior over its codes: {hint}")
    if not hasattr(model, "value_range"):
        raise UserError(f"{name} does not draw images: see samples/ in its run folder")
    return inspect.signature(model.sample).parameters


def with_progress(batches: "Iterable[Tensor]", count: int, done: str, what: str) -> "Iterator[Tensor]":
    """Yield batches (B, ...) of ``count`` images, and print the progress if there are many."""
    number = 0
    for batch in batches:
        yield batch
        number += len(batch)
        if count > MANY:
            end = "\n" if number == count else ""
            print(f"\r{done} {number:,} of {count:,} {what}", end=end, file=sys.stderr, flush=True)
