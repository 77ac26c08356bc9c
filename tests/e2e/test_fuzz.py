"""Whatever options, files and checkpoints hold, vqlab succeeds, or reports in one line what is wrong, writing nothing.

A case is determined by its number. VQLAB_FUZZ_CASES=1000 runs a thousand of them; case 737 alone is
``VQLAB_FUZZ_CASES=738 pytest --runslow test_fuzz.py::test_it_ends_well[737]``.
"""

import gzip
import io
import json
import os
import pickle
import random
import resource
import shlex
import shutil
import signal
import struct
import zipfile
import zlib
from functools import cache

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from scipy.io import wavfile
from scipy.sparse import csr_matrix, save_npz

from tests.e2e.systems import MODELS, SYSTEMS, write_posts
from tests.e2e.tiny import AUTOENCODER, DATA, TRAINER
from tests.helpers.forks import Forked
from tests.helpers.toy_fonts import box, build
from vqlab.cli.lightning import prepare
from vqlab.cli.write_shards import write_shards
from vqlab.experiments.settings import flatten

pytestmark = pytest.mark.slow
CASES = int(os.environ.get("VQLAB_FUZZ_CASES", "30"))
SECONDS, MEBIBYTES = 60, 4096  # what one case may take
LATE = ("is NaN or infinite at batch", "cannot be decoded (")  # found in training, not before
EXECUTED = "executed"  # the file that malicious checkpoints try to make
SHORT = ["--trainer.max_steps=2", "--trainer.max_epochs=1", "--trainer.limit_val_batches=1", "--samples.num_images=2"]
OFFLINE = dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), "http://127.0.0.1:9")
OFFLINE |= {"no_proxy": "", "NO_PROXY": "", "WANDB_MODE": "disabled"}


def quantized(name, *options):
    return ["--model=VQVAE", *AUTOENCODER, f"--model.quantizer={name}", *options, *DATA]


def nested(name):
    inner = ["--model.quantizer.quantizer=VectorQuantizer", "--model.quantizer.quantizer.num_embeddings=8"]
    return quantized(name, *inner)


BASES = SYSTEMS | {
    "FSQ": quantized("FSQ", "--model.quantizer.levels=[4,4]"),
    "LookupFree": quantized("LookupFree", "--model.quantizer.embedding_dim=4"),
    "Gumbel": quantized("GumbelQuantizer", "--model.quantizer.num_embeddings=8"),
    "SimVQ": quantized("SimVQ", "--model.quantizer.num_embeddings=8"),
    "Residual": nested("ResidualQuantizer"),
    "MultiScale": [*nested("MultiScaleQuantizer"), "--model.quantizer.scales=[1,2,4]"],
    "Scheduled": [
        *SYSTEMS["VQVAE"],
        "--model.optimization.schedule.kind=cosine",
        "--ema.decay=0.9",
        "--plateau.patience=1",
    ],
}
TRAINED = ["VQVAE", "JSA", "SGAN", "GANTopicModel", "CodePrior", "Residual"]

VALUES = [
    *("nan", "inf", "-inf", "-1", "0", "1", "3", "7", "1000000000", "99999999999999999999", "1e9", "0.5", "1e-300"),
    *("abc", "", '""', "null", "[]", "[1,2]", "[[]]", "[null]", "{}", "{a: 1}", "true", "-0.5", "1e300", "zürich-字"),
    *("../x", "missing/file.npz", "/dev/zero/x", "/proc/self/mem", "a b", "[0]", "[-1,1]", "[nan,nan]", "2", "\u2028"),
    *("os.system", "torch.nn.Linear", "lightning.Callback", "builtins.exec", "!!python/name:os.system", "&a [*a]"),
]
LINES = ["\t- x", "{", "]: [", "a: &a [*a]", "? !!binary abc", "unknown: 1", "%YAML 9.9", "\x00", "\ud83d", "- 1", '"']
# What they ask for is to wait for other machines, to run for ever, or for hours, or in many processes.
NEVER = {"num_nodes", "min_steps", "min_epochs", "ckpt_path", "devices", "num_workers"}
LONG = {"num_mis_steps", "nll_samples", "test_nll_samples", "n_critic"}


class Stock:
    """Configurations and trained runs, by the name of their base, made once each."""

    def __init__(self, folder):
        self.folder = folder
        self.config, self.run = cache(self._config), cache(self._run)

    def put_needs(self, base, folder):
        """Put what the options of ``base`` name into ``folder``."""
        if base == "GANTopicModel":
            write_posts(folder / "posts.jsonl")
        if base == "CodePrior":
            shutil.copy(self.run("VQVAE") / "checkpoints/last.ckpt", folder / "tokenizer.ckpt")

    def _config(self, base):
        self.put_needs(base, self.folder)
        return self._do("fit", *BASES[base], *TRAINER, *SHORT, "--print_config")

    def _run(self, base):
        self.put_needs(base, self.folder)
        self._do("fit", *BASES[base], *TRAINER, *SHORT, "--name", base)
        (checkpoint,) = self.folder.glob(f"runs/*/{base}/checkpoints/last.ckpt")
        return checkpoint.parent.parent

    def _do(self, *arguments):
        status, output = execute(arguments, self.folder)
        assert status == 0, output
        return output


def execute(arguments, folder):
    """Run ``vqlab`` in ``folder``, offline and with little time and memory; return status and output."""

    def limit():
        os.chdir(folder)
        signal.signal(signal.SIGALRM, signal.SIG_DFL)  # pytest may have its own
        signal.alarm(SECONDS)
        resource.setrlimit(resource.RLIMIT_DATA, (MEBIBYTES << 20, MEBIBYTES << 20))

    process = Forked(*arguments, before=limit, **OFFLINE)
    output, _ = process.communicate()
    return process.returncode, output


@pytest.fixture(scope="module")
def stock(tmp_path_factory):
    prepare()
    return Stock(tmp_path_factory.mktemp("stock"))


@pytest.mark.parametrize("number", range(CASES))
def test_it_ends_well(number, stock, tmp_path):
    folder = tmp_path / "above" / "here"  # a case may write to ../x
    folder.mkdir(parents=True)
    kind = KINDS[number % len(KINDS)]
    arguments = kind(random.Random(number), folder, stock)
    before = listed(tmp_path)
    status, output = execute(arguments, folder)
    wrong = fault(status, output) or traces(before, listed(tmp_path), status, output)
    assert not wrong, f"{wrong}\n{kind.__name__}: status {status}: vqlab {shlex.join(arguments)}\n{output[-3000:]}"


def fault(status, output):
    """Return what is wrong with what a command printed, '' if nothing."""
    lines = output.strip().splitlines()
    errors = [line for line in lines if line.startswith("vqlab: error: ")]
    if "Traceback" in output:
        return "a traceback"
    if status == 0:
        return "an error, and yet success" if errors else ""
    if status != 2:
        return "another status"
    if len(errors) != 1 or lines[-1] != errors[0]:
        return "not exactly one line of error at the end"
    return "" if 30 < len(errors[0]) < 700 else "a line that is too short or too long"


def traces(before, after, status, output):
    """Return what a command left that it should not have, '' if nothing."""
    if any(path.name == EXECUTED or "evil" in path.name for path in after):
        return "code or an archive did what it wanted"
    changed = [path for path in sorted(after.keys() | before.keys()) if after.get(path) != before.get(path)]
    begun = any(late in output for late in LATE) or any("checkpoints" in path.parts for path in changed)
    return f"refused, and yet it changed {changed}" if status == 2 and changed and not begun else ""


def listed(folder):
    """Return the content of each file under ``folder``, and where links point to."""
    links = {path: str(path.readlink()) for path in folder.rglob("*") if path.is_symlink()}
    return links | {path: path.read_bytes() for path in folder.rglob("*") if path not in links and path.is_file()}


# Options and configurations


def option_case(rng, folder, stock):
    """Return a training with one or two options of a system changed."""
    base = rng.choice(list(BASES))
    stock.put_needs(base, folder)
    names = [name for name in flatten(yaml.safe_load(stock.config(base))) if not NEVER & {*name.split(".")}]
    ours = [name for name in names if not name.startswith("trainer.")]
    changed = {}
    for _ in range(rng.choice([1, 1, 2])):
        name = rng.choice(ours if rng.random() < 0.8 else names)
        changed[name] = rng.choice([v for v in VALUES if not (name.rpartition(".")[2] in LONG and len(v) > 3)])
    if len({"trainer.max_steps", "trainer.max_epochs"} & changed.keys()) == 2:
        del changed["trainer.max_steps"]
    return ["fit", *BASES[base], *TRAINER, *SHORT, *(f"--{name}={value}" for name, value in changed.items())]


def config_case(rng, folder, stock):
    """Return a training from a configuration file with a line or a value that does not belong there."""
    base = rng.choice(list(BASES))
    stock.put_needs(base, folder)
    lines = stock.config(base).splitlines()
    place = rng.choice([n for n, line in enumerate(lines) if line.strip().partition(":")[0] not in NEVER])
    mutated = {
        "drop": [],
        "retype": [f"{lines[place].partition(':')[0]}: {rng.choice(VALUES)}"],
        "insert": [" " * rng.randrange(8) + rng.choice(LINES), lines[place]],
        "indent": [" " * rng.randrange(1, 5) + lines[place].strip()],
        "twice": [lines[place], lines[place]],
        "flip": [lines[place].replace(rng.choice(lines[place]), chr(rng.randrange(1, 256)), 1)],
    }
    lines[place : place + 1] = mutated[rng.choice([*mutated, "retype", "retype"])]
    path = folder / rng.choice(["a.yaml", "ä b.yaml", "字.yml", "no_suffix"])
    path.write_bytes("\n".join(lines).encode(errors="surrogatepass"))
    return ["fit", "--config", path.name, *SHORT]


# Bytes


def damage(rng, path):
    """Spoil the file ``path`` in one of the ways in which disks, downloads and people do."""
    whole = path.read_bytes()
    place = rng.randrange(len(whole))
    head = min(place, 120)
    magic = rng.choice([b"PK\x03\x04", b"\x1f\x8b\x08", b"\x93NUMPY", b"RIFF", b"\x89PNG\r\n\x1a\n"])
    flipped = bytes([whole[place] ^ 1 << rng.randrange(8)])
    spoiled = {
        "cut": whole[:place],
        "empty": b"",
        "flip": whole[:place] + flipped + whole[place + 1 :],
        "magic": magic + whole[6:],
        "head": whole[:head] + b"\xff" * 4 + whole[head + 4 :],  # numbers in headers become huge
        "zeros": bytes(len(whole)),
        "longer": whole + rng.randbytes(1000),
        "text": "<html>Seite nicht gefunden: 字</html>\n".encode() * 20,
        "random": rng.randbytes(len(whole)),
    }
    path.write_bytes(spoiled[rng.choice([*spoiled, "cut", "flip"])])


# Checkpoints


class Malice:
    """Runs a shell command when it is unpickled without care."""

    def __reduce__(self):
        return os.system, (f"touch {EXECUTED}",)


def plant(rng, path):
    """Put code that runs on unpickling into a checkpoint."""
    whole = torch.load(path, weights_only=True)
    kind = rng.choice(["bare", "zip", "legacy", "state_dict", "hyper_parameters", "class_path"])
    if kind == "bare":
        return path.write_bytes(pickle.dumps(Malice()))
    if kind in ("zip", "legacy"):
        return torch.save(Malice(), path, _use_new_zipfile_serialization=kind == "zip")
    if kind == "class_path":
        name = rng.choice(["os.system", "builtins.exec", "subprocess.Popen", "vqlab.cli.main.main"])
        part = rng.choice([*whole["hyper_parameters"]])
        whole["hyper_parameters"][part] = {"class_path": name, "init_args": {"command": f"touch {EXECUTED}"}}
    else:
        whole[kind]["lr"] = Malice()
    return torch.save(whole, path)


def spoil_entry(rng, path):
    """Drop or replace one entry of a checkpoint, at any depth."""
    whole = place = torch.load(path, weights_only=True)
    key = rng.choice(list(place))
    while isinstance(place[key], dict) and place[key] and rng.random() < 0.75:
        place = place[key]
        key = rng.choice(list(place))
    value = place[key]
    others = [None, -1, 10**18, 1e308, float("nan"), "abc", "../x", [], {}, [None], True, b"x", torch.zeros(3)]
    if isinstance(value, torch.Tensor) and rng.random() < 0.7:
        others = [value.double() * float("nan"), value.half(), value.long(), value.flatten()[:1], value.to("meta")]
    if rng.random() < 0.3:
        del place[key]
    else:
        place[key] = rng.choice(others)
    torch.save(whole, path)


def checkpoint_case(rng, folder, stock):
    """Return a command on a checkpoint that is spoiled, or another model's."""
    base = rng.choice(TRAINED)
    stock.put_needs(base, folder)
    run = folder / "runs" / rng.choice(["it", "ö 字"])
    shutil.copytree(stock.run(base), run)
    path = run / "checkpoints/last.ckpt"
    other = stock.run(rng.choice(TRAINED)) / "checkpoints/last.ckpt"
    spoil = {
        "damage": lambda: damage(rng, path),
        "malice": lambda: plant(rng, path),
        "entry": lambda: spoil_entry(rng, path),
        "folder": lambda: damage(rng, rng.choice(sorted(file for file in run.iterdir() if file.is_file()))),
        "other": lambda: shutil.copy(other, path),
    }
    spoil[rng.choice([*spoil, "damage", "entry", "entry"])]()
    given = os.path.relpath(path, folder)
    fit = ["fit", *BASES[base], *TRAINER, *SHORT, "--trainer.max_steps=4"]
    drawing = rng.choice(["num", "label", "temperature", "top-k", "top-p", "guidance", "seed", "out", "columns"])
    return rng.choice(
        [
            ["fit", f"--ckpt_path={given}", "--trainer.max_steps=4", "--trainer.max_epochs=1"],
            [*fit, f"--ckpt_path={given}"],
            ["test", f"--ckpt_path={given}", "--trainer.limit_test_batches=1"],
            ["validate", f"--ckpt_path={given}"],
            ["predict", f"--ckpt_path={given}", "--trainer.limit_predict_batches=1"],
            ["sample", given, "--num=2", f"--{drawing}={rng.choice(VALUES)}"],
            ["fit", *BASES["CodePrior"], *TRAINER, *SHORT, f"--model.tokenizer={given}"],
        ]
    )


# Data files: each source writes sound files and returns the options of a training on them


def arrays(rng, folder):
    path = folder / "ä 字 b.npz"
    images = np.random.default_rng(0).integers(0, 256, (40, 16, 16), np.uint8)
    np.savez_compressed(path, x=images, y=np.arange(40) % 4)
    return [*MODELS["VQVAE"], "--data=ImageArrays", f"--data.path={path.name}"]


def pictures(rng, folder):
    for number in range(12):
        path = folder / "images" / f"kind {number % 2} ü" / f"{number}{rng.choice(['.png', '.jpg', '.gif', '.bmp'])}"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((20, 18, 3), 20 * number, np.uint8)).save(path)
    options = ["--data=ImageFolder", "--data.path=images", "--data.image_size=16", "--data.val_fraction=0.3"]
    return [*MODELS["VQVAE"], *options, f"--data.verify={rng.choice(['true', 'false'])}"]


def shards(rng, folder):
    pictures(rng, folder)
    write_shards(folder / "images", folder / "shards", shard_mb=0.002, val_fraction=0.3)
    shutil.rmtree(folder / "images")
    return [*MODELS["VQVAE"], "--data=ImageShards", "--data.path=shards", "--data.image_size=16"]


def signals(rng, folder):
    kind = rng.choice(["npy", "csv", "wav"])
    (folder / "signals").mkdir()
    for number in range(6):
        values = np.random.default_rng(number).standard_normal((2, 300)).astype(np.float32)
        with (folder / "signals" / f"{number} a'b.{kind}").open("wb") as file:
            if kind == "npy":
                np.save(file, values)
            elif kind == "csv":
                np.savetxt(file, values.T, delimiter=",", header="a,b", comments="")
            else:
                wavfile.write(file, 100, values.T)
    return [*MODELS["S4DVQ"], "--data=Signals", "--data.path=signals", "--data.length=64"]


def table(rng, folder):
    kind = rng.choice(["csv", "jsonl", "txt"])
    path = folder / f"%s{{}}.{kind}{rng.choice(['', '.gz'])}"
    texts = [f"alpha beta word{'abcdefgh'[n % 8] * 3} gamma{'xyz'[n % 3]}" for n in range(60)]
    lines = {
        "jsonl": [json.dumps({"text": text, "label": "k"}) for text in texts],
        "csv": ["text,label", *(f'"{text}",{n % 3}' for n, text in enumerate(texts))],
        "txt": texts,
    }
    content = "\n".join(lines[kind]).encode()
    path.write_bytes(gzip.compress(content, mtime=0) if path.suffix == ".gz" else content)
    options = ["--data=TextFile", f"--data.path={path.name}", "--data.min_df=1", "--data.max_df=1.0"]
    return [*MODELS["GANTopicModel"], *options]


def counts(rng, folder):
    with (folder / "counts ü.npz").open("wb") as file:
        save_npz(file, csr_matrix(np.random.default_rng(0).integers(0, 3, (60, 30))))
    np.save(folder / "labels.npy", np.arange(60) % 3)
    (folder / "words.txt").write_text("\n".join(f"word{n}" for n in range(30)))
    options = ["--data.labels_path=labels.npy", "--data.vocabulary_path=words.txt", "--data.path=counts ü.npz"]
    return [*MODELS["GANTopicModel"], "--data=BagOfWords", *options]


def fonts(rng, folder):
    cff = rng.random() < 0.5
    for name, grow in (("source", 0), ("target", 60)):
        shapes = {0x41 + n: [box(100 + grow, 0, 200 + grow + 10 * n, 400 + 10 * n)] for n in range(26)}
        build(folder / f"{name}.ttf", shapes, cff=cff, family=name)
    options = ["--data.source=source.ttf", "--data.target=target.ttf", "--data.image_size=32", "--data.cache=null"]
    return [*MODELS["FontGAN"], "--data=FontPairs", *options]


def npy_of(shape, dtype="|u1"):
    """An npy file whose header promises such a shape, and that holds little."""
    header = f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header.encode() + bytes(1000)


def npz_of(**members):
    """An npz archive of such members."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(f"{name}.npy", content)
    return file.getvalue()


def png_of(width, height):
    """A PNG whose header promises a large image."""
    file = io.BytesIO()
    Image.new("L", (8, 8)).save(file, "png")
    content = file.getvalue()
    head = b"IHDR" + struct.pack(">II", width, height) + content[24:29]
    return content[:12] + head + struct.pack(">I", zlib.crc32(head)) + content[33:]


def bomb():
    """6.4 GB of zeros in as many kB."""
    return gzip.compress(bytes(1 << 26), mtime=0) * 100


SHAPES = ["(1000000000, 16, 16)", "(99999999999999999999, 16, 16)", "(-1, 16, 16)", "(40, 0, 16)", "()", "'x'"]
ARRAYS = [*map(npy_of, SHAPES), *(npz_of(x=npy_of(shape)) for shape in SHAPES), npz_of(x=npy_of("(4, 8, 8)", "|O"))]
ARRAYS.append(npz_of(**{"../../evil": npy_of("(40, 5, 5)"), "y": npy_of("(40,)", "<i8")}))
TEXTS = [
    b"\xff\xfe" + "alpha beta".encode("utf-16-le"),
    b'{"text": ' + b"[" * 100_000 + b"\n",
    b'{"text": 1}\n{"text": null}\n',
    b'"' + b"a" * 1_000_000,
    b"alpha\x00beta\n" * 10,
]
SOURCES = {  # source of the files -> hostile contents of one of them
    arrays: ARRAYS,
    pictures: [png_of(60_000, 60_000), png_of(1, 2**31 - 1), png_of(12_000, 12_000)],
    shards: ARRAYS,
    signals: [*ARRAYS, b"a,b\n1,2\n3\n", b"nan,inf\n" * 300],
    table: TEXTS,
    counts: [*ARRAYS, *TEXTS],
    fonts: TEXTS,
}


def file_case(rng, folder, stock):
    """Return a training on files of which one is spoiled."""
    source, hostile = rng.choice(list(SOURCES.items()))
    options = source(rng, folder)
    path = rng.choice(sorted(path for path in folder.rglob("*") if path.is_file()))
    way = rng.choice(["damage"] * 6 + ["hostile", "hostile", "link", "folder", "gone"])
    if way == "damage":
        damage(rng, path)
    elif way == "hostile":
        path.write_bytes(bomb() if source is table and rng.random() < 0.2 else rng.choice(hostile))
    else:
        path.unlink()
        if way == "link":
            path.symlink_to(rng.choice([path.name, ".", "..", "/dev/null", "/dev/zero", "missing"]))
        elif way == "folder":
            path.mkdir()
    return ["fit", *options, "--data.batch_size=4", *TRAINER, *SHORT]


KINDS = [option_case, file_case, option_case, checkpoint_case, option_case, file_case, config_case]
