"""``vqlab sample``: draw images from a checkpoint of any generative model into one picture."""

import inspect
import os
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import vqlab
from vqlab.cli.info import read_facts
from vqlab.cli.parser import Parser
from vqlab.errors import UserError
from vqlab.experiments.settings import as_flag

MOST = 100_000  # all are drawn into one picture
BATCH = 64  # images drawn at once, so that memory does not limit --num


def sample(args: Sequence[str]) -> None:
    """Run ``vqlab sample`` with ``args``.

    Raises:
        UserError: If the checkpoint, the model or an option is not fit for it; nothing is written then.
    """
    options = _parser().parse_args(args)
    for name, least, most in (("num", 1, MOST), ("columns", 1, MOST), ("seed", 0, 2**63 - 1)):
        if not least <= (given := getattr(options, name)) <= most:
            raise UserError(f"--{name} must be at least {least} and at most {most}, got {given}")
    out = Path(options.out)
    _check_out(out)

    import torch  # late, so that help and mistakes are answered at once
    from torchvision.utils import save_image

    from vqlab.callbacks.sample_grid import interleave
    from vqlab.training.checkpoint import load
    from vqlab.training.checkpoint_io import write_atomic

    model: Any = load(options.checkpoint)
    given = {name: getattr(options, name) for name in ("label", "temperature", "top_k", "top_p", "guidance")}
    arguments = _arguments_for(model, {k: v for k, v in given.items() if v is not None}, options.checkpoint)
    model.to("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(options.seed)
    if "generator" in inspect.signature(model.sample).parameters:
        arguments["generator"] = torch.Generator().manual_seed(options.seed)  # the same draws on every device
    counts = [min(BATCH, options.num - done) for done in range(0, options.num, BATCH)]
    with torch.no_grad():
        images = torch.cat([model.sample(count, **arguments).cpu() for count in counts])
    grid = interleave({"sample": model.value_range.decode(images)}, options.columns)
    with write_atomic(out, "--out") as file:
        save_image(grid, file, format="png")
    print(f"{out}: {options.num} samples of {type(model).__name__}, {images.shape[-1]} x {images.shape[-2]} each")


def _parser() -> Parser:
    parser = Parser(prog="vqlab sample", description="Draw images from a trained model into one PNG.")
    parser.add_argument("checkpoint", help="a .ckpt file of a model that can sample, such as CodePrior or SGAN")
    parser.add_argument("--num", type=int, default=64, help="how many images (default 64)")
    parser.add_argument("--label", type=int, help="class to draw, for a model with labels; default: all classes")
    parser.add_argument("--temperature", type=float, help="below 1: likelier, less varied codes (default 1)")
    parser.add_argument("--top-k", type=int, help="draw from the k likeliest codes alone")
    parser.add_argument("--top-p", type=float, help="draw from the likeliest codes that have probability p together")
    parser.add_argument("--guidance", type=float, help="exaggerate what the label changes (default 1: not at all)")
    parser.add_argument("--seed", type=int, default=0, help="the same seed draws the same images (default 0)")
    parser.add_argument("--out", default="samples.png", help="file to write (default samples.png)")
    parser.add_argument("--columns", type=int, default=8, help="images per row (default 8)")
    return parser


def _arguments_for(model: Any, given: dict[str, Any], checkpoint: str) -> dict[str, Any]:
    """Return the options ``given``, after checking that the model samples and takes them."""
    name = type(model).__name__
    if not hasattr(model, "sample"):
        hint = "there is one for images alone, give a checkpoint of a generative model"
        if all(hasattr(model, verb) for verb in ("encode", "decode", "images")):
            tokenizer = shlex.quote(f"--model.tokenizer={checkpoint}")
            hint = f"vqlab fit --config configs/prior.yaml {tokenizer} {_data_options(checkpoint)}"
        raise UserError(f"{name} cannot sample by itself, it needs a prior over its codes: {hint}")
    if not hasattr(model, "value_range"):
        raise UserError(f"{name} draws no images: look at samples/ of its run, or call .top_words() of vqlab.load(...)")
    taken = inspect.signature(model.sample).parameters
    for option in given:
        if option not in taken:
            raise UserError(f"{name} has no option {option}: leave out --{option.replace('_', '-')}")
    return given


def _data_options(checkpoint: str) -> str:
    """Return the options that choose the data of the run that wrote ``checkpoint``."""
    from vqlab.cli.errors import constructor_arguments

    facts = read_facts(Path(checkpoint))
    if not facts["data"]:
        return "--data=..., the data that it was trained on"
    cls = getattr(vqlab, facts["data"]) if facts["data"] in vqlab.__all__ else None
    defaults = {f"data.{name}": value.default for name, value in constructor_arguments(cls).items()} if cls else {}
    chosen = {name: value for name, value in facts["data_settings"].items() if value != defaults.get(name)}
    return shlex.join(as_flag(name, value) for name, value in {"data": facts["data"], **chosen}.items())


def _check_out(out: Path) -> None:
    """Refuse a place that cannot be written before anything is drawn."""
    if out.suffix.lower() != ".png":
        raise UserError(f"{out} must end in .png: set --out samples.png")
    folder = next(parent for parent in out.absolute().parents if parent.exists())
    if out.is_dir() or not folder.is_dir() or not os.access(folder, os.W_OK):
        raise UserError(f"{out} cannot be written: set --out to another place")
