"""The parser's nested, many-line errors as one line that names the option and the mend."""

import ast
import difflib
import inspect
import re
import textwrap
from collections.abc import Container, Iterable, Sequence
from pathlib import Path
from traceback import walk_tb
from typing import Any

import lightning
from jsonargparse import Namespace

import vqlab
from vqlab.cli.oom import too_large
from vqlab.errors import UserError
from vqlab.serialization import find_class
from vqlab.validation import InvalidArgument

OTHER_TYPES = ("Expected a", "Does not validate")  # said of the types that were not meant
KINDS = {"float": "a number", "int": "an integer", "bool": "true or false", "str": "text", "list": "a list"}
KINDS |= {"tuple": "a list", "set": "a list", "dict": "a mapping", "NoneType": "null"}
PRECISIONS = {
    "64|double": "64-true",
    "32|single|full": "32-true",
    "^b|brain": "bf16-mixed",
    "16|half|mixed": "16-mixed",
}


def explain(error: BaseException, args: Sequence[str] = (), known: Iterable[str] = ()) -> UserError:
    """Return the one-line error behind ``error``: a UserError among its causes as it is, else the innermost cause.

    Args:
        error: What was raised.
        args: The command's arguments; the large numbers among them are named where a size is too large.
        known: The options of the command, from which misspelt ones are corrected.
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
    innermost = re.split("Got value|Given value", message.rpartition('Parser key "')[2])[0]
    classes = re.findall(r"class_path '([\w.]+)'", message)
    bases = re.findall(r"Subtypes: \[<class '([\w.]+)'", message)
    if match := re.search(r"Option '([\w.]+)' is not accepted", root):
        return UserError(_unknown_option(option, match[1], classes))
    if match := re.search(r"unrecognized arguments: --([\w.]+)", message):
        if keys:
            return UserError(_unknown_option(option, match[1], classes))
        return UserError(f"there is no option --{match[1]}: {_suggest_option(match[1], known)}")
    if match := re.search(r"does not accept option '([\w.]+)'", message):
        return UserError(f"there is no option {match[1]}: {_suggest_option(match[1], known)}")
    if match := re.search(r"unrecognized arguments: ([^-]\S*)", message):
        flag = {".yaml": "--config", ".yml": "--config", ".ckpt": "--ckpt_path"}.get(Path(match[1]).suffix)
        hint = f"did you mean {flag} {match[1]}?" if flag else "options begin with --, as in --data.batch_size=8"
        return UserError(f"{match[1]!r} belongs to no option: {hint}")
    if match := re.search(r"argument (?:-c/)?(--[\w.]+): expected one argument", message):
        given = next((arg for arg in args if arg.startswith(match[1]) and "=" not in arg), match[1])
        return UserError(f"{given} needs a value: {given}=VALUE")
    if match := re.search(r"Expected a dot import path string: (\S+)", innermost):
        return _shortened(_unknown_class(option, match[1], bases))
    if match := re.search(r"Not a valid subclass of \w+\. Got value: (.+?)(?: Subclass types|$)", root):
        return _shortened(f"{option} must name a class, got {match[1].replace('None', 'null')}: {_choose_class(bases)}")
    if re.search(r"Expected an instantiatable class, but [\w.]+ is abstract", root):
        return _shortened(f"{option} names no class: put {option}=CLASS in front, {_choose_class(bases)}")
    if match := re.search(r"Unable to load config ['\"](.*?)['\"]$", root):
        option = "--" + ".".join(dict.fromkeys(keys))
        return UserError(f"{option}: {match[1]!r} is not a configuration file: set single options, {option}.NAME=VALUE")
    if keys and (match := re.search(r"arguments are required: (.+)", innermost)):
        names = match[1].split(", ")
        needs = " ".join(f"{option}.{name}=VALUE" for name in names)
        return _shortened(f"{classes[-1].rpartition('.')[2]} needs {match[1]}: add {needs}")
    value = re.search(r"(?:Got|Given) value: (.*)", message)
    given = value[1].replace("None", "null") if value else ""
    if literals := [ast.literal_eval(found) for found in re.findall(r"typing\.Literal(\[.*?\])", innermost)]:
        allowed = [choice for choice in max(literals, key=len) if not str(choice).startswith("transformer-engine")]
        return UserError(f"{option} must be one of {allowed}, got {given}{_similar_value(option, given, allowed)}")
    if kinds := re.findall(r"Expected a <class '(?:[\w]+\.)*(\w+)'>", innermost):
        return _shortened(f"{option} must be {_any_of(kinds)}, got {given}")
    if match := re.search(r"arguments are required: (?:\w+\.)?(\w+)", message):
        example = {"data": " CIFAR10", "model": " VQVAE"}.get(match[1], "")
        return UserError(f"no {match[1]} chosen: add --{match[1]}{example}, or --config configs/vqvae.yaml")
    if not keys:
        return _shortened(f"see vqlab fit --help: {message}")
    return _shortened(f"{option}: {root}")


def with_options(error: UserError, config: Namespace, linked: Container[str] = ()) -> str:
    """Return the message of ``error`` with the arguments that it names as options of the command line.

    A part knows its arguments and not what holds it: ``num_embeddings`` of a codebook is the option
    --model.quantizer.num_embeddings, but --model.quantizer.quantizer.num_embeddings in a ResidualQuantizer. Options
    are put for the argument that the message begins with, and for each ``name=value``.

    Args:
        error: The error, with the traceback that tells which object raised it.
        config: The configuration of the command.
        linked: Arguments of models that the data decide.
    """
    raised_by = [type(frame.f_locals["self"]) for frame, _ in walk_tb(error.__traceback__) if "self" in frame.f_locals]
    line = error.line
    if isinstance(error, InvalidArgument):
        raised_by.append(error.owner)
        line = line.removeprefix(f"{error.owner.__name__}: ")

    def option(match: re.Match[str]) -> str:
        name = match[0]
        places = [place for key, group in vars(config).items() for place in _holders(group, key, name)]
        if not places:
            return name
        by_data = [place for place, _ in places if name in linked and place.startswith("data")]
        by_class = [place for cls in reversed(raised_by) for place, held in places if held and issubclass(cls, held)]
        return f"--{[*by_data, *by_class, places[0][0]][0]}.{name}"

    return re.sub(r"^\w+(?= )|(?<![-.\w])\w+(?==)", option, line)


def _holders(spec: Any, option: str, name: str) -> list[tuple[str, type | None]]:
    """Return each option under ``option`` that has the argument ``name``, with its class."""
    if not isinstance(spec, Namespace):
        return []
    if not isinstance(spec.get("class_path"), str):  # a dataclass, or a callback
        arguments, cls = vars(spec), None
        found: list[tuple[str, type | None]] = [(option, None)] if name in spec else []
    else:
        cls = class_of(spec.class_path)
        arguments = vars(spec.get("init_args") or Namespace())
        found = [(option, cls)] if name in arguments_of(cls) else []
    for key, part in arguments.items():
        found += _holders(part, f"{option}.{key}", name)
    return found


def misconfigured(error: Exception) -> UserError:
    """Return what Lightning says against the Trainer's options, in one line."""
    if isinstance(error, UserError):
        return error
    if isinstance(error, KeyError):  # an environment variable that the cluster should have set
        return UserError(f"{error.args[0]} is not set: under SLURM call srun vqlab, or unset SLURM_NTASKS")
    return UserError(f"{textwrap.shorten(str(error), 200)}: see the --trainer options")


def _shortened(message: str) -> UserError:
    """Return ``message`` in at most two lines of a terminal."""
    return UserError(textwrap.shorten(message, 200, placeholder=" ..."))


def _any_of(kinds: Iterable[str]) -> str:
    """Return in words what a value may be, from the names of the types.

    Example:
        >>> _any_of(["int", "float", "NoneType"])
        'a number or null'
    """
    narrower = {"float": "int", "int": "bool"}
    hidden = {narrower[kind] for kind in kinds if kind in narrower}
    return " or ".join(dict.fromkeys(word for kind, word in KINDS.items() if kind in {*kinds} - hidden))


def _similar_value(option: str, value: str, allowed: list[Any]) -> str:
    """Return which of the allowed values was probably meant."""
    close = difflib.get_close_matches(value, [str(choice) for choice in allowed], n=1, cutoff=0.7)
    if option == "--trainer.precision" and not close:
        close = [name for pattern, name in PRECISIONS.items() if re.search(pattern, value)]
    return f": did you mean {close[0]}?" if close else ""


def _unknown_option(option: str, name: str, class_paths: list[str]) -> str:
    """Name the option that was probably meant, from the constructor of the innermost class."""
    if not class_paths:
        return f"{option} has no option {name!r}: see vqlab fit --help"
    class_name = class_paths[-1].rpartition(".")[2]
    known = arguments_of(class_of(class_paths[-1]))
    if not known:  # of the bare base class
        return f"{option}.{name} belongs to no class: put {option} CLASS in front of it"
    return f"{class_name} has no option {name!r}: {_suggest(name.split('.')[0], known, prefix=f'{option}.')}"


def _suggest_option(name: str, known: Iterable[str]) -> str:
    """Name the option of the command, or of a model or data module, that was probably meant."""
    options = [option.lstrip("-") for option in known if option.startswith("--")]
    for group, base in (("model", lightning.LightningModule), ("data", lightning.LightningDataModule)):
        options += [f"{group}.{argument}" for cls in _public(base) for argument in arguments_of(cls)]
    group, mark, last = name.rpartition(".")
    options = [option for option in options if mark and option.startswith(f"{group}.")] or options
    by_last = {option.rpartition(".")[2]: option for option in reversed(options)}
    close = [by_last[found] for found in difflib.get_close_matches(last, by_last, n=1, cutoff=0.8)]
    close += [
        by_last[found]
        for found in sorted(by_last, key=lambda found: (len(found), found))
        if len(last) > 3 and last in found
    ]
    return f"did you mean --{close[0]}?" if close else "see vqlab fit --help"


def _unknown_class(option: str, name: str, bases: list[str]) -> str:
    """Name the class that was probably meant, from vqlab's public classes of the right kind."""
    return f"{option}: there is no class {name!r}: {_choose_class(bases, name)}"


def _choose_class(bases: list[str], name: str = "") -> str:
    """Name the public classes of the innermost base, or the one that is like ``name``."""
    base = class_of(bases[-1]) if bases else UserError
    fitting = {cls.__name__: cls for cls in _public(base)} if bases else {}
    return _suggest(name, [key for key, cls in fitting.items() if cls is not base] or [*fitting])


def _public(base: type) -> list[type]:
    """Return vqlab's public classes that inherit from ``base``."""
    public = (getattr(vqlab, name) for name in vqlab.__all__)
    return [cls for cls in public if isinstance(cls, type) and issubclass(cls, base)]


def arguments_of(cls: type) -> list[str]:
    """Return the names of the constructor's arguments, with those that it passes on to its bases."""
    kinds = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return [name for name, found in constructor_arguments(cls).items() if found.kind not in kinds and name != "self"]


def constructor_arguments(cls: type) -> dict[str, inspect.Parameter]:
    """Return the constructor's parameters by name, with those that it passes on to its bases."""
    found: dict[str, inspect.Parameter] = {}
    for base in cls.__mro__:
        if "__init__" in vars(base) and base is not object:
            arguments = inspect.signature(vars(base)["__init__"]).parameters
            found = {**arguments, **found}
            if not any(argument.kind is inspect.Parameter.VAR_KEYWORD for argument in arguments.values()):
                break
    return found


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
