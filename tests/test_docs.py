"""The documentation: scripts and commands of the model pages run, links resolve, and each public name has an entry."""

import gzip
import importlib
import json
import pkgutil
import re
import shlex
from pathlib import Path

import numpy as np
import pytest

import vqlab
from tests.e2e.tiny import ROOT, TRAINER, fit
from tests.helpers.forks import Forked, fork, status_of

DOCS = ROOT / "docs"
PAGES = sorted(page for page in DOCS.rglob("*.md") if "_build" not in page.parts and "generated" not in page.parts)
SCRIPTS = sorted(DOCS.glob("models/scripts/*.py"))
BLOCKS = {
    f"{page.stem}-{number}": block
    for page in sorted(DOCS.glob("models/*.md"))
    for number, block in enumerate(re.findall(r"^```bash\n(.*?)^```$", page.read_text(), re.DOTALL | re.MULTILINE))
}
# What makes a script short; the rest of it runs as it is printed.
SHORTER = [
    (r"(max_steps=|STEPS = )\d+", r"\g<1>3"),
    (r"num_train=4000, num_val=256", "num_train=64, num_val=32"),
    (r"packages=\(.*?\)", 'packages=("skimage", "lightning")'),
    (r"num_records=40, seconds=30", "num_records=20, seconds=12"),
    (r"num_samples=50", "num_samples=5"),
]
QUICK = ["--trainer.max_steps=2", "--trainer.limit_val_batches=1", "--trainer.num_sanity_val_steps=0"]


def run_script(path):
    code = path.read_text()
    for long, short in SHORTER:
        code = re.sub(long, short, code)
    exec(compile(code, path, "exec"), {"__name__": "__main__"})


@pytest.mark.slow
@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_script_of_a_model_page_runs(path):
    assert status_of(fork(run_script, path)) == 0


def embedded_data(command):
    """Return ``command`` on embedded data, with smaller networks where they are large."""
    text = " ".join(command)
    for part in command:
        if part.startswith("configs/"):
            text += re.sub("#.*", "", (ROOT / part).read_text())
    small = []
    if "S4DVQ" in text:
        small = [] if "Signals" in text else ["--data.num_records=20", "--data.seconds=12"]
        small += ["--data.length=64"]
    elif "GANTopicModel" in text:
        small = [] if "TextFile" in text else ["--data=Docstrings", "--data.packages=[skimage]"]
    elif "FontGAN" in text:
        small = ["--data.source=null", "--data.target=null", "--data.charset=ascii", "--data.image_size=32"]
        small += ["--data.cache=null", "--model.generator.base_channels=8"]
    elif "--data=Digits" not in text:
        small = ["--data=Digits"] + ["--data.image_size=32"] * ("MNIST" not in text)
    if "Prior" in text:
        small += ["--model.depth=1"]
    if "VQGAN" in text:  # LPIPS would be downloaded
        small += ["--model.perceptual_weight=0", "--model.adversarial.disc_start=1"]
        small += ["--model.adversarial.disc_warmup=0"]
    if "ConvEncoder" in text:
        small += ["--model.encoder.base_channels=32", "--model.decoder.base_channels=32"]
    if "nll_samples" in text:
        small += ["--model.evaluation.nll_samples=2"]
    return [*command, *small, "--data.batch_size=4", "--trainer.devices=1", *TRAINER, *QUICK]


def write_own_data():
    """Write the files that the commands read: texts, signals, and a tokenizer."""
    rng = np.random.default_rng(0)
    words = ["".join(letters) for letters in rng.choice([*"abcdefghij"], (300, 6))]
    with gzip.open("posts.jsonl.gz", "wt") as file:
        file.writelines(json.dumps({"text": " ".join(rng.choice(words, 20))}) + "\n" for _ in range(400))
    Path("records").mkdir()
    for number in range(6):
        np.save(f"records/{number}.npy", rng.standard_normal(2000))


@pytest.mark.slow
@pytest.mark.parametrize("name", BLOCKS)
def test_commands_of_a_model_page_run(name):
    write_own_data()
    lines = BLOCKS[name].replace("\\\n", "").splitlines()
    commands = [shlex.split(line) for line in lines if line and not line.startswith("#")]
    if "tokenizer" in BLOCKS[name]:
        scales = ["--model.quantizer=MultiScaleQuantizer"] if "next_scale" in BLOCKS[name] else []
        fit(*QUICK, "--name=first", "--data.image_size=32", *scales)
    for program, verb, *rest in commands:
        assert program == "vqlab"
        if verb == "fit":
            rest = embedded_data(rest)
        line = " ".join([verb, *rest]).replace("configs/", f"{ROOT}/configs/")
        line = line.replace("tokenizer=...", "tokenizer=runs/vqvae/first/checkpoints/best.ckpt")
        line = line.replace("big5l1", "cyrillic")  # what the target font of matplotlib lacks
        if prior := re.search(r"runs/(\w+prior)/second", line):
            line = line.replace("second", next(Path("runs", prior[1]).iterdir()).name)
        status, output = Forked(*line.split(" ")).end()
        assert status == 0, f"vqlab {line}\n{output}"


def packages():
    """Return the packages of vqlab that export names, and vqlab itself."""
    names = ["vqlab", *(f"vqlab.{module.name}" for module in pkgutil.iter_modules(vqlab.__path__) if module.ispkg)]
    return [module for module in map(importlib.import_module, names) if hasattr(module, "__all__")]


@pytest.mark.parametrize("package", packages(), ids=lambda package: package.__name__)
def test_every_public_name_has_an_entry_in_the_api_reference(package):
    entries = re.findall(r"^ +vqlab\.([\w.]+)$", "\n".join(page.read_text() for page in DOCS.glob("api/*.md")), re.M)
    listed = {entry.rpartition(".")[2] for entry in entries}
    assert {name for name in package.__all__ if not name.startswith("__")} <= listed


def test_every_entry_of_the_api_reference_is_a_name_of_vqlab():
    for page in DOCS.glob("api/*.md"):
        for entry in re.findall(r"^ +(vqlab\.[\w.]+)$", page.read_text(), re.MULTILINE):
            owner, _, name = entry.rpartition(".")
            assert hasattr(importlib.import_module(owner), name), f"{page.name}: {entry}"


def anchors(page):
    """Return the anchors of a page: its labels and its headings as MyST names them."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    slugs = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
    return slugs | set(re.findall(r"^\(([\w-]+)\)=$", text, re.MULTILINE))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(DOCS)))
def test_links_and_pictures_of_a_page_exist(page):
    text = re.sub(r"^```(?!{).*?^```$", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    labels = {label for other in PAGES for label in re.findall(r"^\(([\w-]+)\)=$", other.read_text(), re.MULTILINE)}
    for target in re.findall(r"\]\(<?([^)\s>]+)>?\)", re.sub(r"`[^`\n]*`", "", text)):
        if re.match(r"https?://|mailto:", target):
            continue
        path, _, anchor = target.partition("#")
        file = page.parent / path if path else page
        if file.suffix == ".ipynb":
            file = ROOT / "notebooks" / file.name
        assert file.exists(), f"{target} does not exist"
        if anchor and file.suffix == ".md":
            assert anchor in anchors(file) | (labels if not path else set()), f"{path or page.name} has no #{anchor}"
    for file in re.findall(r"^```{(?:literalinclude|include)} (\S+)$", text, re.MULTILINE):
        assert (page.parent / file).exists(), f"{file} does not exist"
    for name in re.findall(r"{(?:class|func)}`~?vqlab\.(\w+)`", text):
        assert name in vqlab.__all__, f"vqlab has no {name}"


TERMS = ["Codebook collapse", "Codebook utilization", "Dead code", "Early stopping", "Mixed precision"]
TERMS += ["Straight-through estimator", "Warm start"]


@pytest.mark.parametrize("term", TERMS)
def test_glossary_explains_the_term_and_links_to_a_heading(term):
    entry = re.search(rf"^{term}\n((?:  .*\n)+)", (DOCS / "glossary.md").read_text(), re.MULTILINE)
    assert entry
    assert re.search(r"\]\([^)]*#[\w-]+\)", entry[1])
