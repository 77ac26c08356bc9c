"""Directions of imports, fast start, and types and docstrings of the public names."""

import ast
import importlib
import inspect
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import vqlab

ROOT = Path(vqlab.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))
# A package imports itself and packages of the levels below it.
LEVELS = [
    {"cli"},
    {"interop"},
    {"models", "data", "callbacks"},
    {"fonts"},
    {"training"},
    {"quantizers", "losses", "samplers", "metrics"},
    {"nn", "experiments"},  # experiments must start quickly: the levels below it do not import torch
    {"serialization"},
    {"validation"},
    {"atomic_io"},
    {"errors"},
]
NAMES_ONLY = {("serialization", "vqlab")}  # it looks up vqlab's public names
LEVEL = {package: level for level, packages in enumerate(LEVELS) for package in packages}
WITHOUT_LIGHTNING = {"nn", "losses", "samplers", "quantizers", "experiments", "atomic_io", "errors"}
WITHOUT_TORCH = {"experiments", "validation", "atomic_io", "errors"}


def package_of(module: str) -> str:
    """Return the package of a dotted name; ``vqlab`` itself counts as the command line."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 and parts[1] in LEVEL else "cli"


def module_of(path: Path) -> str:
    return ".".join(("vqlab", *path.relative_to(ROOT).with_suffix("").parts)).removesuffix(".__init__")


def imports(source: str) -> set[str]:
    """Return all modules that a file imports; ``from vqlab import data`` is ``vqlab.data``."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: relative import"
            found |= {f"vqlab.{a.name}" for a in node.names} if node.module == "vqlab" else {node.module}
    return found


def wrong_imports(module: str, source: str) -> set[str]:
    mine, found = package_of(module), imports(source)
    ours = {name for name in found if name.split(".")[0] == "vqlab" and package_of(name) != mine}
    wrong = {name for name in ours if LEVEL[package_of(name)] <= LEVEL[mine] and (mine, name) not in NAMES_ONLY}
    forbidden = {"lightning", "pytorch_lightning"} if mine in WITHOUT_LIGHTNING else set()
    forbidden |= {"torch"} if mine in WITHOUT_TORCH else set()
    return wrong | {name for name in found if name.split(".")[0] in forbidden}


def run(*args: str) -> subprocess.CompletedProcess:
    env = {name: value for name, value in os.environ.items() if not name.startswith("VQLAB_")}
    return subprocess.run([sys.executable, *args], env=env, capture_output=True, text=True, timeout=120)


def test_every_package_has_a_level():
    assert {path.relative_to(ROOT).parts[0].removesuffix(".py") for path in FILES} == {"__init__", "__main__", *LEVEL}


def test_imports_go_to_lower_levels_only():
    found = {module_of(path): wrong_imports(module_of(path), path.read_text()) for path in FILES}
    assert {module: wrong for module, wrong in found.items() if wrong} == {}


def test_packages_export_their_classes():
    for package, name in (("models", "VQGAN"), ("quantizers", "FSQ"), ("data", "CIFAR10"), ("nn", "PatchGAN")):
        assert inspect.isclass(getattr(importlib.import_module(f"vqlab.{package}"), name))


@pytest.mark.slow
def test_public_names_are_typed():
    stubs = [str(path) for path in sorted(ROOT.rglob("__init__.pyi"))]
    assert len(stubs) > 8
    # Modules that the stubs import are checked by the project's own mypy run, less strictly.
    options = ["--strict", "--follow-imports=silent", f"--config-file={ROOT.parent / 'pyproject.toml'}"]
    done = run("-m", "mypy", *options, f"--cache-dir={ROOT.parent / '.pytest_cache/mypy'}", *stubs)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(("args", "status"), [(["--help"], 0), ([], 0), (["--version"], 0), (["fitt"], 2)])
def test_help_and_unknown_commands_do_not_import_torch(args, status):
    done = run("-X", "importtime", "-m", "vqlab", *args)
    modules = re.findall(r"^import time:.*\| +(\S+)$", done.stderr, re.MULTILINE)
    assert "vqlab.cli.main" in modules
    assert not {"torch", "lightning"} & {name.split(".")[0] for name in modules}
    assert done.returncode == status
    assert bool(done.stdout) == (status == 0)
    if status:
        assert done.stderr.splitlines()[-1].startswith("vqlab: error: ")


@pytest.mark.parametrize("name", sorted({*vqlab.__all__} - {"__version__"}))
def test_public_name_has_a_docstring(name):
    thing = getattr(vqlab, name)
    assert name in dir(vqlab)
    doc = (thing.__doc__ or "").strip()
    assert doc
    if isinstance(thing, type):
        assert len(doc.splitlines()) > 1
