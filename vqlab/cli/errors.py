"""Turn the parser's nested, long errors into one line that names the option and the rule."""

import ast
import difflib
import importlib
import inspect
import re
import textwrap
from collections.abc import Container, Iterable
from traceback import walk_tb

import lightning
from jsonargparse import Namespace

import vqlab
from vqlab.errors import UserError, suggest
from vqlab.experiments.settings import flatten
from vqlab.serialization import find_class
from vqlab.validation import InvalidArgument

LONGEST = 200  # characters of a line


def explain(error: BaseException, known: Iterable[str] = ()) -> UserError:
    """Return the first UserError among ``error`` and its causes, or else a one-line error from the innermost cause."""
    chain = [error]
    while cause := chain[-1].__cause__ or chain[-1].__context__:
        chain.append(cause)
    if user_error := next((link for link in chain if isinstance(link, UserError)), None):
        return user_error
    root = next(text for link in reversed(chain) if (text := " ".join(str(link).split())))
    line = _line(str(error), root, known)
    if 'Parser key "' not in str(error):  # a union of types, with a message for each of them
        reasons = re.findall(r"^\s*- (?!Expected a|Does not validate)(.+)$", str(error), re.MULTILINE)
        line = next(iter(reasons), line)
    return UserError(textwrap.shorten(line, LONGEST, placeholder=" ..."))


def _line(message: str, root: str, known: Iterable[str]) -> str:
    """Return in one line the meaning of a message of jsonargparse with the innermost cause ``root``."""
    keys = re.findall(r'Parser key "([\w.]+)"', message)
    option = "--" + ".".join(keys)
    innermost = re.split("Got value|Given value", message.rpartition('Parser key "')[2])[0]
    given = (re.findall(r"(?:Got|Given) value: (.*)", message) or [""])[0].replace("None", "null")
    classes = re.findall(r"class_path '([\w.]+)'", message)
    if keys and (match := re.search(r"Option '([\w.]+)' is not accepted|unrecognized arguments: --([\w.]+)", message)):
        name = match[1] or match[2]
        if not classes:
            return f"{option} has no option {name!r}: see vqlab fit --help"
        cls = class_of(classes[-1])
        if not (arguments := list(constructor_arguments(cls))):  # of the base class
            return f"{option}.{name} belongs to no class: put {option} CLASS in front of it"
        close = difflib.get_close_matches(name, arguments, n=1)
        hint = f"did you mean {option}.{close[0]}?" if close else f"choose from {', '.join(arguments)}"
        return f"{cls.__name__} has no option {name!r}: {hint}"
    if match := re.search(r"unrecognized arguments: (\S+)|does not accept option '([\w.]+)'", message):
        name = (match[1] or match[2]).partition("=")[0]
        if name.endswith((".yaml", ".yml", ".ckpt")):
            option = "--ckpt_path" if name.endswith(".ckpt") else "--config"
            return f"{name!r} belongs to no option: did you mean {option} {name}?"
        return f"there is no option {name}: {_suggest_option(name, known)}"
    if match := re.search(r"Expected a dot import path string: (\S+)", innermost):
        bases = re.findall(r"Subtypes: \[<class '([\w.]+)'", message)
        public = [cls.__name__ for cls in _public(class_of(bases[-1]))] if bases else []
        hint = suggest(match[1], public, "" if public else "give the dotted path of one, module.Class")
        return f"{option}: there is no class {match[1]!r}: {hint}"
    if keys and (match := re.search(r"arguments are required: (.+)", innermost)):
        return f"{option} needs more arguments: set {option}.NAME=VALUE for {match[1]}"
    if match := re.search(r"NestedArg\(key='([\w.]+)'", given):
        return f"{option}.{match[1]} belongs to no class: put {option}=CLASS in front of it"
    if literals := [ast.literal_eval(found) for found in re.findall(r"typing\.Literal(\[.*?\])", innermost)]:
        allowed = [choice for choice in max(literals, key=len) if not str(choice).startswith("transformer-engine")]
        close = difflib.get_close_matches(given, [str(choice) for choice in allowed], n=1, cutoff=0.5)
        return f"{option} must be one of {allowed}, got {given}" + (f": did you mean {close[0]}?" if close else "")
    if kinds := re.findall(r"Expected a <class '(?:\w+\.)*(\w+)'>", innermost):
        kinds = ["null" if kind == "NoneType" else kind for kind in dict.fromkeys(kinds)]
        return f"{option} must be {' or '.join(kinds)}, got {given}"
    if match := re.search(r"arguments are required: (?:\w+\.)?(model|data)", message):
        return f"no {match[1]} chosen: add --model VQVAE --data CIFAR10, or --config configs/vqvae.yaml"
    return f"{option}: {root}" if keys else f"{root}: see vqlab fit --help"


def with_options(error: UserError, config: Namespace, linked: Container[str] = ()) -> UserError:
    """Return ``error`` with its first word, an argument, and each ``name=value`` replaced by command-line options.

    A part of a model names its argument ``num_embeddings``; the option is --model.quantizer.quantizer.num_embeddings.
    """
    raised_by = [type(frame.f_locals["self"]) for frame, _ in walk_tb(error.__traceback__) if "self" in frame.f_locals]
    line = error.line
    if isinstance(error, InvalidArgument):
        raised_by.append(error.owner)
        line = line.removeprefix(f"{error.owner.__name__}: ")
    depth = {cls.__name__: i for i, cls in reversed([*enumerate(raised_by)])}
    settings = flatten(config.as_dict())

    def option(match: re.Match[str]) -> str:
        name = match[0]
        places = [place for place, _, last in (key.rpartition(".") for key in settings) if last == name]
        if not places:
            return name
        place = max(places, key=lambda p: (name in linked and p == "data", depth.get(str(settings.get(p)), -1)))
        return f"--{place}.{name}".replace("--.", "--")

    return UserError(re.sub(r"^\w+(?= )|(?<![-.\w])\w+(?==)", option, line))


def misconfigured(error: Exception) -> UserError:
    """Return Lightning's error about the Trainer's options in one line."""
    if isinstance(error, UserError):
        return error
    if isinstance(error, KeyError):  # an environment variable that SLURM sets
        return UserError(f"{error.args[0]} is not set: under SLURM call srun vqlab, or unset SLURM_NTASKS")
    return UserError(f"{textwrap.shorten(str(error), LONGEST - 10)}: see the --trainer options")


def _suggest_option(name: str, known: Iterable[str]) -> str:
    """Return a hint with the closest option of the command, a model or a data module."""
    options = [option for option in known if option.startswith("--")]
    for group, base in (("model", lightning.LightningModule), ("data", lightning.LightningDataModule)):
        options += [f"--{group}.{argument}" for cls in _public(base) for argument in constructor_arguments(cls)]
    group, _, last = name.removeprefix("--").rpartition(".")
    options = [option for option in options if group and option.startswith(f"--{group}.")] or options
    by_last = {option.removeprefix("--").rpartition(".")[2]: option for option in reversed(options)}
    close = difflib.get_close_matches(last, by_last, n=1, cutoff=0.75)
    close += [found for found in by_last if len(last) > 3 and last in found]
    return f"did you mean {by_last[close[0]]}?" if close else "see vqlab fit --help"


def _public(base: type) -> list[type]:
    """Return vqlab's public subclasses of ``base``, or ``base`` if it has none."""
    public = [getattr(vqlab, name) for name in vqlab.__all__]
    derived = [cls for cls in public if isinstance(cls, type) and issubclass(cls, base)]
    return [cls for cls in derived if cls is not base] or derived


def constructor_arguments(cls: type) -> dict[str, inspect.Parameter]:
    """Return the constructor's parameters by name, including those that ``**kwargs`` pass to its bases."""
    found: dict[str, inspect.Parameter] = {}
    for base in cls.__mro__:
        if "__init__" in vars(base) and base is not object:
            _, *parameters = inspect.signature(vars(base)["__init__"]).parameters.values()
            kinds = [parameter.kind for parameter in parameters]
            found = {p.name: p for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)} | found
            if inspect.Parameter.VAR_KEYWORD not in kinds:
                break
    return found


def class_of(path: str) -> type:
    """Return the class of a path that the parser prints; vqlab's own may be ``vqlab.Name``."""
    module, _, name = path.rpartition(".")
    try:
        return getattr(vqlab, name) if module == "vqlab" else find_class(path)
    except UserError:
        return getattr(importlib.import_module(module), name)
