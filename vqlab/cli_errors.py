"""The parser's nested, many-line errors as one line that names the option and the mend."""

import difflib
import inspect
import re
from collections.abc import Sequence

import vqlab
from vqlab.errors import UserError
from vqlab.nn.rebuild import find_class
from vqlab.too_large import too_large

OTHER_TYPES = ("Expected a", "Does not validate")  # said of the types that were not meant


def explain(error: BaseException, args: Sequence[str] = ()) -> UserError:
    """Return the one-line error behind ``error``: a UserError among its causes as it is, else the innermost cause.

    The large numbers among ``args``, the command's arguments, are named where a size is too large.
    """
    chain = [error]
    while cause := chain[-1].__cause__ or chain[-1].__context__:
        chain.append(cause)
    for link in chain:
        if isinstance(link, UserError):
            return link
        if size := too_large(link, args):
            return size
    message = str(error)
    keys = re.findall(r'Parser key "([\w.]+)"', message)
    option = "--" + ".".join(keys) if keys else "options"
    root = next(text for link in reversed(chain) if (text := " ".join(str(link).split())))
    if message.startswith("Does not validate"):  # a union's complaints, one per type, without the errors behind them
        reasons = [
            line for line in re.findall(r"^\s*- (.+)$", message, re.MULTILINE) if not line.startswith(OTHER_TYPES)
        ]
        if reasons and not keys:
            return UserError(reasons[0])

    if match := re.search(r"Option '([\w.]+)' is not accepted", root):
        return UserError(_unknown_option(option, match[1], re.findall(r"class_path '([\w.]+)'", message)))
    if match := re.search(r"Expected a dot import path string: (.+)", root):
        return UserError(_unknown_class(option, match[1], re.findall(r"Subtypes: \[<class '([\w.]+)'", message)))
    if match := re.search(r"typing\.Literal(\[.*\])\. Got value: (.*)", root):
        return UserError(f"{option} must be one of {match[1]}, got {match[2]}")
    if match := re.search(r"arguments are required: (?:\w+\.)?(\w+)", message):
        example = {"data": " CIFAR10", "model": " VQVAE"}.get(match[1], "")
        return UserError(f"no {match[1]} chosen: add --{match[1]}{example}, or --config configs/vqvae.yaml")
    if message.startswith("Problems parsing config"):
        return UserError(f"the config is not valid YAML: {root}")
    if "Unrecognized arguments" in message or len(keys) == 0:
        return UserError(" ".join(message.split())[:300] + " See vqlab fit --help")
    return UserError(f"{option}: {root}"[:300])


def misconfigured(error: Exception) -> UserError:
    """Return what Lightning says against the Trainer's options, in one line."""
    if isinstance(error, UserError):
        return error
    if isinstance(error, KeyError):  # an environment variable that the cluster should have set
        return UserError(f"{error.args[0]} is not set: under SLURM call srun vqlab, or unset SLURM_NTASKS")
    return UserError(f"{' '.join(str(error).split())[:300]}: see the --trainer options")


def _unknown_option(option: str, name: str, class_paths: list[str]) -> str:
    """Name the option that was probably meant, from the constructor of the innermost class."""
    if not class_paths:
        return f"{option} has no option {name!r}: see vqlab fit --help"
    class_name = class_paths[-1].rpartition(".")[2]
    known = [p for p in inspect.signature(class_of(class_paths[-1])).parameters if p not in ("args", "kwargs")]
    if not known:  # of the bare base class
        return f"{option}.{name} belongs to no class: put {option} CLASS in front of it"
    return f"{class_name} has no option {name!r}: {_suggest(name, known, prefix=f'{option}.')}"


def _unknown_class(option: str, name: str, bases: list[str]) -> str:
    """Name the class that was probably meant, from vqlab's public classes of the right kind."""
    base = class_of(bases[-1]) if bases else object
    public = {key: getattr(vqlab, key) for key in vqlab.PUBLIC}
    fitting = [key for key, cls in public.items() if isinstance(cls, type) and issubclass(cls, base)]
    known = [key for key in fitting if public[key] is not base] or fitting  # a base class is rarely what is meant
    return f"{option}: there is no class {name!r}: {_suggest(name, known)}"


def _suggest(name: str, known: list[str], prefix: str = "") -> str:
    if close := difflib.get_close_matches(name, known, n=1):
        return f"did you mean {prefix}{close[0]}?"
    return f"choose from {', '.join(known)}" if known else "give the dotted path of one, module.Class"


def class_of(path: str) -> type:
    """Find a class by the path that the parser prints; vqlab's own may be shortened to ``vqlab.Name``."""
    module, _, name = path.rpartition(".")
    if module == "vqlab":
        return getattr(vqlab, name)
    try:
        return find_class(path)
    except UserError:
        import importlib

        return getattr(importlib.import_module(module), name)
