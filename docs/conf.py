"""Sphinx settings: ``sphinx-build -W -b html docs docs/_build`` builds the site, without network."""

import ast
import contextlib
import dataclasses
import functools
import importlib.util
import inspect
import json
import pkgutil
import re
import sys
import textwrap
from pathlib import Path

import nbformat
from docutils.nodes import Text, inline, literal, literal_block, math, math_block, raw, reference
from sphinx.errors import ExtensionError

DOCS = Path(__file__).parent
ROOT = DOCS.parent
sys.path[:0] = [str(ROOT), str(DOCS / "_ext")]

project = "vqlab"
author = "the vqlab developers"
project_copyright = "the vqlab developers"
release = re.search(r'^version = "(.+)"', (ROOT / "pyproject.toml").read_text(), re.M)[1]
version = release

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "myst_nb",
    "sphinx_design",
    "sphinx_copybutton",
    # MathML needs neither a script nor a network to be shown; MathJax is the fallback.
    "mathml" if importlib.util.find_spec("latex2mathml") else "sphinx.ext.mathjax",
]
exclude_patterns = ["_build", "_ext", "**.ipynb_checkpoints", "jupyter_execute"]
templates_path = ["_templates"]
nitpicky = True
nitpick_ignore_regex = [("py:.*", ".* .*")]  # words that napoleon takes for a type
suppress_warnings = ["mystnb.unknown_mime_type"]

# Markdown and notebooks.
myst_enable_extensions = ["colon_fence", "dollarmath", "deflist", "attrs_inline", "attrs_block", "fieldlist"]
myst_heading_anchors = 3
nb_execution_mode = "off"  # docs/notebooks/run.py runs them and stores their outputs
nb_merge_streams = True

# API reference.
autosummary_generate = True
autosummary_ignore_module_all = False
autodoc_default_options = {"members": True, "member-order": "bysource"}
autodoc_typehints = "none"  # the argument's annotation is a rule of vqlab.validation; docstrings state types in words
autodoc_preserve_defaults = True
maximum_signature_line_length = 90
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
napoleon_custom_sections = ["Shape", "Source"]
add_module_names = False
toc_object_entries_show_parents = "hide"

# Theme.
html_theme = "pydata_sphinx_theme"
html_title = f"vqlab {release}"
html_static_path = ["_static"]
html_css_files = ["vqlab.css"]
html_show_sourcelink = False
html_copy_source = False
html_theme_options = {
    "logo": {"text": "vqlab"},
    "navbar_align": "left",
    "header_links_before_dropdown": 10,
    "navbar_end": ["theme-switcher"],
    "navbar_persistent": ["search-button"],
    "secondary_sidebar_items": {"**": ["page-toc"]}
    | {f"results/{page.stem}": [] for page in DOCS.glob("results/*.md")},
    "footer_start": ["copyright"],
    "footer_end": [],
    "show_toc_level": 2,
    "navigation_with_keys": False,
    "pygments_light_style": "github-light",
    "pygments_dark_style": "github-dark",
}
SINGLE_PAGES = "index install quickstart quantizers data metrics faq contributing changelog glossary"
html_sidebars = {page: [] for page in re.findall(r"\w+", SINGLE_PAGES)}  # pages without a section around them
PACKAGES = ["", *(f"{stub.parent.name}." for stub in sorted((ROOT / "vqlab").glob("*/__init__.pyi")))]
UNIT = r"(?<=\d) (?=%|(?:dB|px|MB|GB|KB|nats|bits|steps|Hz)\b)|(?<=±) | (?=±)"  # the space before a unit
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True


def check_reference(app):
    """Fail the build if a public name of vqlab or of a package has no entry in docs/api."""
    text = "\n".join(page.read_text() for page in (DOCS / "api").glob("*.md"))
    listed = {entry.rpartition(".")[2] for entry in re.findall(r"^ +vqlab\.([\w.]+)$", text, re.M)}
    stubs = "\n".join(stub.read_text() for stub in (ROOT / "vqlab").rglob("__init__.pyi"))
    if missing := sorted(set(re.findall(r"^from \.[\w.]+ import (\w+)", stubs, re.M)) - listed):
        raise ExtensionError(f"docs/api has no entry for {', '.join(missing)}")


def resolve_by_name(app, env, node, contnode):
    """Link references to the entry of the public name: to vqlab.VQVAE from vqlab.models.vq.vqvae.VQVAE.

    A member that the class of the docstring inherits is linked to the entry of the base class. A name without an entry
    is shown without a link if vqlab has it; any other is reported by Sphinx.
    """
    if node.get("refdomain") != "py":
        return None
    entries = env.domains.python_domain.objects
    target = node["reftarget"].removeprefix("vqlab.")
    *_, owner, name = ["", *target.split(".")]
    candidates = [f"vqlab.{target}", f"vqlab.{owner}.{name}", *(f"vqlab.{package}{name}" for package in PACKAGES)]
    if owner := node.get("py:class"):
        module, _, class_name = f"{node['py:module']}.{owner.removeprefix(node['py:module'] + '.')}".rpartition(".")
        bases = getattr(importlib.import_module(module), class_name).__mro__
        candidates += [f"vqlab.{base.__name__}.{name}" for base in bases]
    for candidate in candidates:
        if candidate in entries and candidate != node["reftarget"]:
            uri = app.builder.get_relative_uri(node.get("refdoc", env.docname), entries[candidate].docname)
            return reference("", "", contnode, internal=True, refuri=f"{uri}#{entries[candidate].node_id}")
    in_summary = any(entry.endswith(f".{name}") for entry in entries)
    return contnode if in_summary or node["reftype"] == "attr" or exists(node) else None


def exists(node):
    """Whether the target of a reference is a name of vqlab, seen from the docstring that the reference is in."""
    target, place = node["reftarget"], (node.source or node.parent.source or "").partition(":docstring of ")[2]
    scopes = [place.rsplit(".", number)[0] for number in range(place.count(".") + 1)]
    for name in (target, *(f"{scope}.{target}" for scope in scopes)):
        with contextlib.suppress(ImportError, AttributeError, ValueError):
            pkgutil.resolve_name(name)
            return name.startswith("vqlab")
    return False


def show_arguments(app, what, name, obj, options, signature, returned):
    """Show the arguments of the constructor as they are written, where a base class hides them."""
    if what != "class" or "__init__" not in vars(obj):
        return None
    if dataclasses.is_dataclass(obj):
        parameters = inspect.signature(obj).parameters.values()
        plain = [parameter.replace(annotation=inspect.Parameter.empty) for parameter in parameters]
        return str(inspect.Signature(plain)), None
    arguments = ast.parse(textwrap.dedent(inspect.getsource(obj.__init__))).body[0].args
    for argument in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs, arguments.vararg, arguments.kwarg):
        if argument is not None:
            argument.annotation = None
    del arguments.args[0]
    return f"({ast.unparse(arguments)})", None


def escape_formulas(app, what, name, obj, options, lines):
    """Escape what reStructuredText would take for markup in (B, D, *spatial) and in |z - e|, but not in code."""
    if lines and lines[0].startswith("Define the computation performed at every call"):  # of torch.nn.Module.forward
        lines.clear()
    code = False
    for number, line in enumerate(lines):
        code = line.lstrip().startswith(">>>") or (code and line.strip() != "")
        if not code:
            parts = re.split(r"(``.*?``|:\w+:`.*?`)", line)
            parts[::2] = [re.sub(r"(?<![\\*])\|", r"\\|", part) for part in parts[::2]]
            parts[::2] = [re.sub(r"(?<=[ (x])\*(?=[a-z]+[,)])", r"\\*", part) for part in parts[::2]]
            lines[number] = "".join(parts)


def keep_together(app, doctree, docname):
    """Keep numbers such as 3e-4, and numbers and their units, on one line."""
    for text in list(doctree.findall(Text)):
        if isinstance(text.parent, (literal, literal_block, math, math_block, raw)):
            continue
        spaced = re.sub(UNIT, "\N{NO-BREAK SPACE}", text)
        parts = re.split(r"(\b[\d.]+e-\d+)", spaced)
        if parts[1:]:
            new = [inline("", part, classes=["number"]) if i % 2 else Text(part) for i, part in enumerate(parts)]
            text.parent.replace(text, new)
        elif spaced != text:
            text.parent.replace(text, Text(spaced))


@functools.cache
def hooks():
    """Return the names of what Lightning and torch call by themselves."""
    from lightning import Callback, LightningDataModule, LightningModule

    shown = {"forward", "training_step", "predict_step"}
    return {name for base in (LightningModule, LightningDataModule, Callback) for name in dir(base)} - shown


def skip_hooks(app, what, name, obj, skip, options):
    """Leave hooks of Lightning out of the reference."""
    return True if what == "class" and name in hooks() else None


def copy_notebooks(app):
    """Copy the notebooks, which have no outputs, into the source folder, with the outputs that run.py has stored."""
    target = DOCS / "notebooks"
    for copy in target.glob("*.ipynb"):
        if not (ROOT / "notebooks" / copy.name).exists():
            copy.unlink()
    for path in (ROOT / "notebooks").glob("*.ipynb"):
        notebook = nbformat.read(path, as_version=4)
        cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
        stored = json.loads((target / "outputs" / f"{path.stem}.json").read_text())
        if len(cells) != len(stored):
            raise ExtensionError(f"the outputs of {path.name} are outdated: run docs/notebooks/run.py {path.stem}")
        for number, (cell, outputs) in enumerate(zip(cells, stored, strict=True), 1):
            cell.execution_count = number
            cell.outputs = nbformat.from_dict(outputs["outputs"])
            for output in cell.outputs:
                if output.output_type == "execute_result":
                    output.execution_count = number
        text = nbformat.writes(notebook)
        copy = target / path.name
        if not copy.exists() or copy.read_text() != text:
            copy.write_text(text)


def setup(app):
    """Connect the functions above to the build."""
    app.connect("builder-inited", copy_notebooks, priority=1)
    app.connect("builder-inited", check_reference)
    app.connect("missing-reference", resolve_by_name)
    app.connect("doctree-resolved", keep_together)
    app.connect("autodoc-process-signature", show_arguments)
    app.connect("autodoc-process-docstring", escape_formulas, priority=900)
    app.connect("autodoc-skip-member", skip_hooks)
