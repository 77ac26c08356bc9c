"""Imports run one way, the package is cheap to import, and every public name is there, typed and described."""

import ast
import importlib
import inspect
import os
import re
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import vqlab

ROOT = Path(vqlab.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))
# A package imports itself and the levels below it. Packages of one level do not import each other.
LEVELS = [
    {"cli"},
    {"interop"},
    {"models", "data", "callbacks"},
    {"fonts"},
    {"training"},
    {"quantizers", "losses", "samplers", "metrics"},
    {"nn", "experiments"},  # experiments reads runs and must start quickly: nothing below it imports torch
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
    """The package that a dotted name under vqlab belongs to; only the command line imports from ``vqlab`` itself."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 and parts[1] in LEVEL else "cli"


def module_of(path: Path) -> str:
    return ".".join(("vqlab", *path.relative_to(ROOT).with_suffix("").parts)).removesuffix(".__init__")


def imports(source: str) -> set[str]:
    """All modules that a file imports, at its top or in a function; ``from vqlab import data`` names ``vqlab.data``."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: relative import"
            found |= {f"vqlab.{a.name}" for a in node.names} if node.module == "vqlab" else {node.module}
    return found


def wrong_imports(module: str, source: str) -> set[str]:
    mine = package_of(module)
    wrong = set()
    for name in imports(source):
        top = name.split(".")[0]
        if top == "vqlab":
            other = package_of(name)
            if other != mine and LEVEL[other] <= LEVEL[mine] and (mine, name) not in NAMES_ONLY:
                wrong.add(name)
        elif (top in ("lightning", "pytorch_lightning") and mine in WITHOUT_LIGHTNING) or (
            top == "torch" and mine in WITHOUT_TORCH
        ):
            wrong.add(name)
    return wrong


def run(*args: str) -> subprocess.CompletedProcess:
    env = {name: value for name, value in os.environ.items() if not name.startswith("VQLAB_")}
    return subprocess.run([sys.executable, *args], env=env, capture_output=True, text=True, timeout=120)


def import_times(stderr: str) -> dict[str, int]:
    """Module -> cumulative microseconds, from ``python -X importtime``."""
    rows = re.findall(r"^import time:\s+\d+ \|\s+(\d+) \| +(\S+)$", stderr, re.MULTILINE)
    return {name: int(time) for time, name in rows}


def test_every_package_has_a_level():
    packages = {path.parent.relative_to(ROOT).parts[0] for path in FILES if path.parent != ROOT}
    assert packages <= set(LEVEL)


def test_imports_run_one_way():
    assert {
        module_of(path): wrong for path in FILES if (wrong := wrong_imports(module_of(path), path.read_text()))
    } == {}


def test_no_module_imports_itself_in_a_circle():
    """At the top of files; what a function imports is imported later."""
    modules = {module_of(path): ast.parse(path.read_text()) for path in FILES}
    arrows = {}
    for module, tree in modules.items():
        tops = "\n".join(ast.unparse(node) for node in tree.body if isinstance(node, (ast.Import, ast.ImportFrom)))
        arrows[module] = imports(tops) & modules.keys() - {"vqlab"}
    assert [*TopologicalSorter(arrows).static_order()]


def test_few_modules_are_on_the_top_level():
    top = {path.stem for path in ROOT.glob("*.py")} - {"__init__"}
    assert top == {"errors", "atomic_io", "serialization", "validation", "__main__"}


@pytest.mark.parametrize(
    ("package", "name"),
    [
        ("models", "VQGAN"),
        ("quantizers", "FSQ"),
        ("data", "CIFAR10"),
        ("losses", "Perceptual"),
        ("metrics", "CodebookUsage"),
        ("callbacks", "Health"),
        ("nn", "PatchGAN"),
    ],
)
def test_packages_export_their_classes(package, name):
    module = importlib.import_module(f"vqlab.{package}")
    assert name in dir(module)
    assert inspect.isclass(getattr(module, name))


@pytest.mark.slow
def test_the_public_surface_is_typed():
    stubs = [str(path) for path in sorted(ROOT.rglob("__init__.pyi"))]
    assert len(stubs) > 8
    # What the stubs import is checked by the project's own run of mypy, less strictly.
    options = [
        "--config-file",
        str(ROOT.parent / "pyproject.toml"),
        "--cache-dir",
        str(ROOT.parent / ".pytest_cache/mypy"),
    ]
    done = run("-m", "mypy", "--strict", "--follow-imports=silent", *options, *stubs)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    ("module", "line", "allowed"),
    [
        ("vqlab.cli.lightning", "from vqlab.models.vq.vqvae import VQVAE", True),
        ("vqlab.models.vq.vqvae", "from vqlab.training.finite import require_finite", True),
        ("vqlab.quantizers.fsq", "from vqlab.quantizers.base import Quantizer", True),
        ("vqlab.nn.unet", "import vqlab.errors", True),
        ("vqlab.models.vq.vqvae", "from vqlab.data.datamodule import Batch", False),
        ("vqlab.data.images.base", "def f():\n    from vqlab.callbacks import health", False),
        ("vqlab.quantizers.fsq", "from vqlab.metrics.codes.usage import CodebookUsage", False),
        ("vqlab.nn.unet", "from vqlab.quantizers.fsq import FSQ", False),
        ("vqlab.training.checkpoint", "from vqlab import VQVAE", False),
        ("vqlab.training.checkpoint", "from vqlab import models", False),
        ("vqlab.errors", "import vqlab.nn", False),
        ("vqlab.nn.unet", "from lightning.pytorch import Trainer", False),
        ("vqlab.experiments.report", "import torch", False),
        ("vqlab.experiments.report", "from vqlab.training.loggers.csv import read_rows", False),
        ("vqlab.experiments.report", "from vqlab.atomic_io import write_atomic", True),
    ],
)
def test_the_rule_tells_right_from_wrong(module, line, allowed):
    assert (not wrong_imports(module, line)) == allowed


def test_import_vqlab_loads_neither_torch_nor_lightning_and_takes_no_time():
    loaded = run("-c", "import sys, vqlab; print(*{'torch', 'lightning'} & set(sys.modules))")
    assert (loaded.returncode, loaded.stdout.strip()) == (0, ""), loaded.stderr
    best = min(import_times(run("-X", "importtime", "-c", "import vqlab").stderr)["vqlab"] for _ in range(3))
    assert best < 100_000, f"import vqlab takes {best} microseconds"


@pytest.mark.parametrize(
    ("args", "status"), [(["--help"], 0), ([], 0), (["--version"], 0), (["fitt"], 2)], ids=lambda value: str(value)
)
def test_help_and_mistakes_are_answered_without_torch(args, status):
    done = run("-X", "importtime", "-m", "vqlab", *args)
    modules = import_times(done.stderr)
    assert "vqlab.cli.main" in modules
    assert not {"torch", "lightning"} & {name.split(".")[0] for name in modules}
    assert done.returncode == status
    assert bool(done.stdout) == (status == 0)
    if status:
        assert done.stderr.splitlines()[-1].startswith("vqlab: error: ")


@pytest.mark.parametrize("name", sorted({*vqlab.__all__} - {"__version__"}))
def test_public_name_is_described(name):
    thing = getattr(vqlab, name)
    assert name in dir(vqlab)
    doc = (thing.__doc__ or "").strip()
    assert doc
    if isinstance(thing, type):
        assert len(doc.splitlines()) > 1


def test_file_names_tell_what_is_in_them():
    assert not {path.name for path in FILES} & {"utils.py", "helpers.py"}
