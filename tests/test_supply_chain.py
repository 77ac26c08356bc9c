"""Bounds, tested versions and licences of the dependencies."""

import re
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
GROUPS = {
    "build": PROJECT["build-system"]["requires"],
    "dependencies": PROJECT["project"]["dependencies"],
    **PROJECT["project"]["optional-dependencies"],
    **PROJECT["dependency-groups"],
}
ASKED = [pytest.param(Requirement(text), id=f"{group}-{text}") for group, texts in GROUPS.items() for text in texts]
TESTED = [pytest.param(Requirement(text), id=text) for group in GROUPS if group != "bench" for text in GROUPS[group]]
LINES = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]

FREE = re.compile(r"MIT|BSD|Apache|ISC|PSF|Python Software Foundation|MPL|Mozilla|Zlib|HPND|CC0|Unlicense")
BINDING = re.compile(r"GPL|GNU|Affero|Non-?Commercial|Proprietary|CC-BY-NC", re.IGNORECASE)
NVIDIA = ("nvidia-", "cuda-toolkit")  # dependencies of torch's wheels for Linux, under NVIDIA's own terms


@pytest.mark.parametrize("requirement", ASKED)
def test_lower_and_upper_bound(requirement):
    assert {bound.operator for bound in requirement.specifier} >= {">=", "<"}


@pytest.mark.parametrize("requirement", TESTED)
def test_pinned_version_is_within_the_bounds(requirement):
    name = canonicalize_name(requirement.name)
    pins = [pin for pin in map(Requirement, LINES) if canonicalize_name(pin.name) == name]
    assert pins, f"{name} is not in constraints.txt: write it again as described in CONTRIBUTING.md"
    for pin in pins:
        (exact,) = pin.specifier
        assert requirement.specifier.contains(exact.version, prereleases=True)


def test_pins_are_exact_and_have_no_host():
    assert all(re.fullmatch(r"[\w.-]+==[\w.+-]+( ;.*)?", line) for line in LINES)


def licence(package: metadata.Distribution) -> str:
    """Return the licence of a package, from its most specific field."""
    about = package.metadata
    classifiers = [text for text in about.get_all("Classifier", []) if text.startswith("License ::")]
    first_line = (about.get("License") or "").strip().partition("\n")[0]
    return about.get("License-Expression") or " ".join(classifiers) or first_line


def needed(name: str, found: dict[str, metadata.Distribution]) -> dict[str, metadata.Distribution]:
    """Return the package and all installed packages that it needs."""
    if canonicalize_name(name) in found:
        return found
    try:
        found[canonicalize_name(name)] = package = metadata.distribution(name)
    except metadata.PackageNotFoundError:  # of another platform
        return found
    for requirement in map(Requirement, package.requires or []):
        if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
            needed(requirement.name, found)
    return found


def test_licences_are_permissive():
    packages = needed("vqlab", {})
    assert len(packages) > 50
    licences = {name: licence(package) for name, package in packages.items() if not name.startswith(NVIDIA)}
    assert {name: text for name, text in licences.items() if BINDING.search(text) or not FREE.search(text)} == {}
