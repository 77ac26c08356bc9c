"""``vqlab sample``: draw images from any generative model into one picture."""

import inspect
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import vqlab
from vqlab.atomic_io import write_atomic
from vqlab.cli.arguments import Parser
from vqlab.cli.errors import constructor_arguments
from vqlab.cli.info import read_facts
from vqlab.errors import UserError
from vqlab.experiments.settings import as_flag

BATCH = 64  # images drawn at once


def sample(args: Sequence[str]) -> None:
    """Run ``vqlab sample`` with ``args``."""
    parser = Parser(prog="vqlab sample", description="Draw images from a trained model into one PNG.")
    add = parser.add_argument
    add("checkpoint", help="a .ckpt file of a model that can sample, such as CodePrior or SGAN")
    add("--num", type=int, default=64, help="how many images (default 64)")
    add("--label", type=int, help="class to draw, for a model with labels; default: all classes")
    add("--temperature", type=float, help="below 1: more probable, less diverse codes (default 1)")
    add("--top-k", type=int, help="draw from the k most probable codes")
    add("--top-p", type=float, help="draw from the most probable codes with a total probability of p")
    add("--guidance", type=float, help="scale of classifier-free guidance (default 1: none)")
    add("--steps", type=int, help="passes of the network, for MaskedPrior (default 8)")
    add("--choice-temperature", type=float, help="noise of the confidence, for MaskedPrior (default 4.5)")
    add("--seed", type=int, default=0, help="the same seed draws the same images (default 0)")
    add("--out", default="samples.png", help="file to write (default samples.png)")
    add("--columns", type=int, default=8, help="images per row (default 8)")
    options = parser.parse_args(args)
    if options.num < 1:
        raise UserError(f"--num must be at least 1, got {options.num}")
    out = Path(options.out)
    if out.suffix.lower() != ".png":
        raise UserError(f"{out} must end in .png: set --out samples.png")

    import torch  # late, so that help and wrong options are answered quickly
    from torchvision.utils import save_image

    from vqlab.callbacks.sample_grid import interleave
    from vqlab.training.checkpoint import load

    model: Any = load(options.checkpoint)
    names = ("label", "temperature", "top_k", "top_p", "guidance", "steps", "choice_temperature")
    given = {name: getattr(options, name) for name in names}
    arguments: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    taken = _parameters_of_sample(model, options.checkpoint)
    if unknown := next((name for name in arguments if name not in taken), None):
        raise UserError(f"{type(model).__name__} has no option {unknown}: leave out --{unknown.replace('_', '-')}")
    model.to("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(options.seed)
    if "generator" in taken:
        arguments["generator"] = torch.Generator().manual_seed(options.seed)  # the same draws on every device
    counts = [min(BATCH, options.num - done) for done in range(0, options.num, BATCH)]
    with torch.no_grad():
        images = torch.cat([model.sample(count, **arguments).cpu() for count in counts])
    grid = interleave({"sample": model.value_range.decode(images)}, options.columns)
    with write_atomic(out, "--out") as file:
        save_image(grid, file, format="png")
    print(f"{out}: {options.num} samples of {type(model).__name__}, {images.shape[-1]} x {images.shape[-2]} each")


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
