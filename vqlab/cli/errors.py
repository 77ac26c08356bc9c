"""The parser's nested, many-line errors as one line that names the option and the rule."""

import ast
import difflib
import importlib
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
from vqlab.errors import UserError
from vqlab.serialization import find_class
from vqlab.validation import InvalidArgument

OTHER_TYPES = ("Expected a", "Does not validate")  # complaints about the types that were not meant
FLAGS = {".yaml": "--config", ".yml": "--config", ".ckpt": "--ckpt_path"}
LONGEST = 200  # characters of a line


def explain(error: BaseException, args: Sequence[str] = (), known: Iterable[str] = ()) -> UserError:
    """Return the one-line error behind ``error``: a UserError among its causes as it is, else the innermost cause.

    Args:
        error: What was raised.
        args: The command's arguments.
        known: The options of the command, from which misspelt ones are corrected.
    """
    chain = [error]
    while cause := chain[-1].__cause__ or chain[-1].__context__:
        chain.append(cause)
    if user_error := next((link for link in chain if isinstance(link, UserError)), None):
        return user_error
    message = str(error)
    keys = re.findall(r'Parser key "([\w.]+)"', message)
    root = next(text for link in reversed(chain) if (text := " ".join(str(link).split())))
    if message.startswith("Does not validate") and not keys:  # a union's complaints without the errors behind them
        reasons = re.findall(r"^\s*- (.+)$", message, re.MULTILINE)
        if reasons := [line for line in reasons if not line.startswith(OTHER_TYPES)]:
            return UserError(reasons[0])
    line = _line(message, root, keys, args, list(known))
    return UserError(textwrap.shorten(line, LONGEST, placeholder=" ..."))


def _line(message: str, root: str, keys: list[str], args: Sequence[str], known: list[str]) -> str:
    """Return what ``explain`` says of a message of jsonargparse whose innermost cause is ``root``."""
    option = "--" + ".".join(keys) if keys else "options"
    innermost = re.split("Got value|Given value", message.rpartition('Parser key "')[2])[0]
    classes = re.findall(r"class_path '([\w.]+)'", message)
    bases = re.findall(r"Subtypes: \[<class '([\w.]+)'", message)
    value = re.search(r"(?:Got|Given) value: (.*)", message)
    given = value[1].replace("None", "null") if value else ""
    if match := re.search(r"Option '([\w.]+)' is not accepted", root):
        return _unknown_option(option, match[1], classes)
    if match := re.search(r"unrecognized arguments: --([\w.]+)|does not accept option '([\w.]+)'", message):
        name = match[1] or match[2]
        if keys and match[1]:
            return _unknown_option(option, name, classes)
        return f"there is no option {'--' if match[1] else ''}{name}: {_suggest_option(name, known)}"
    if match := re.search(r"unrecognized arguments: ([^-]\S*)", message):
        flag = FLAGS.get(Path(match[1]).suffix)
        hint = f"did you mean {flag} {match[1]}?" if flag else "options begin with --, as in --data.batch_size=8"
        return f"{match[1]!r} belongs to no option: {hint}"
    if match := re.search(r"argument (?:-c/)?(--[\w.]+): expected one argument", message):
        flag = next((arg for arg in args if arg.startswith(match[1]) and "=" not in arg), match[1])
        return f"{flag} needs a value: {flag}=VALUE"
    if match := re.search(r"Expected a dot import path string: (\S+)", innermost):
        return f"{option}: there is no class {match[1]!r}: {_choose_class(bases, match[1])}"
    if match := re.search(r"Not a valid subclass of \w+\. Got value: (.+?)(?: Subclass types|$)", root):
        return f"{option} must name a class, got {match[1].replace('None', 'null')}: {_choose_class(bases)}"
    if re.search(r"Expected an instantiatable class, but [\w.]+ is abstract", root):
        return f"{option} names no class: put {option}=CLASS in front, {_choose_class(bases)}"
    if match := re.search(r"Unable to load config ['\"](.*?)['\"]$", root):
        option = "--" + ".".join(dict.fromkeys(keys))
        return f"{option}: {match[1]!r} is not a configuration file: set single options, {option}.NAME=VALUE"
    if keys and (match := re.search(r"arguments are required: (.+)", innermost)):
        needs = " ".join(f"{option}.{name}=VALUE" for name in match[1].split(", "))
        return f"{classes[-1].rpartition('.')[2]} needs {match[1]}: add {needs}"
    if literals := [ast.literal_eval(found) for found in re.findall(r"typing\.Literal(\[.*?\])", innermost)]:
        allowed = [choice for choice in max(literals, key=len) if not str(choice).startswith("transformer-engine")]
        close = difflib.get_close_matches(given, [str(choice) for choice in allowed], n=1, cutoff=0.5)
        return f"{option} must be one of {allowed}, got {given}" + (f": did you mean {close[0]}?" if close else "")
    if kinds := re.findall(r"Expected a <class '(?:[\w]+\.)*(\w+)'>", innermost):
        kinds = ["null" if kind == "NoneType" else kind for kind in dict.fromkeys(kinds)]
        return f"{option} must be {' or '.join(kinds)}, got {given}"
    if match := re.search(r"arguments are required: (?:\w+\.)?(\w+)", message):
        example = {"data": " CIFAR10", "model": " VQVAE"}.get(match[1], "")
        return f"no {match[1]} chosen: add --{match[1]}{example}, or --config configs/vqvae.yaml"
    return f"{option}: {root}" if keys else f"see vqlab fit --help: {message}"


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
    """Return Lightning's complaint about the Trainer's options in one line."""
    if isinstance(error, UserError):
        return error
    if isinstance(error, KeyError):  # an environment variable that the cluster should have set
        return UserError(f"{error.args[0]} is not set: under SLURM call srun vqlab, or unset SLURM_NTASKS")
    return UserError(f"{textwrap.shorten(str(error), LONGEST - 10)}: see the --trainer options")


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
    group, _, last = name.rpartition(".")
    options = [option for option in options if group and option.startswith(f"{group}.")] or options
    by_last = {option.rpartition(".")[2]: option for option in reversed(options)}
    close = difflib.get_close_matches(last, by_last, n=1, cutoff=0.8)
    longer = [found for found in by_last if len(last) > 3 and last in found]
    close += sorted(longer, key=lambda found: (len(found), found))
    return f"did you mean --{by_last[close[0]]}?" if close else "see vqlab fit --help"


def _choose_class(bases: list[str], name: str = "") -> str:
    """Name the public classes of the innermost base, or the one that is like ``name``."""
    base = class_of(bases[-1]) if bases else UserError
    fitting = {cls.__name__: cls for cls in _public(base)} if bases else {}
    return _suggest(name, [key for key, cls in fitting.items() if cls is not base] or [*fitting])


def _suggest(name: str, known: list[str], prefix: str = "") -> str:
    if close := difflib.get_close_matches(name, known, n=1):
        return f"did you mean {prefix}{close[0]}?"
    return f"choose from {', '.join(known)}" if known else "give the dotted path of one, module.Class"


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


def class_of(path: str) -> type:
    """Find a class by the path that the parser prints; vqlab's own may be shortened to ``vqlab.Name``."""
    module, _, name = path.rpartition(".")
    try:
        return getattr(vqlab, name) if module == "vqlab" else find_class(path)
    except UserError:
        return getattr(importlib.import_module(module), name)
