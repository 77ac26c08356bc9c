"""Run folders from someone else: their texts add no HTML to a page, and no file outside of them is read or written."""

import base64
import csv
import hashlib
import json
import math
import os
import re
from contextlib import suppress
from functools import partial
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from torchvision.utils import save_image

from tests.helpers import sweeps
from tests.helpers.checkpoints import write_checkpoint
from tests.helpers.run_folders import add_event, make
from vqlab.atomic_io import append, write_atomic
from vqlab.cli.info import info, run_metrics
from vqlab.cli.report import report
from vqlab.errors import UserError
from vqlab.experiments.markup import Markup, tag
from vqlab.experiments.metrics_log import read_log
from vqlab.experiments.row_lock import is_running
from vqlab.experiments.run_files import LARGEST_PICTURE, read_file
from vqlab.experiments.runs import read_run
from vqlab.experiments.settings import read_yaml
from vqlab.training.loggers.csv import CSVLog

RUN, OTHER = Path("runs/vqvae/hostile"), Path("runs/vqvae/other")
SECRET = b"-----BEGIN PRIVATE KEY----- 0123456789"
STRINGS = [
    "<evil>",
    "<img src=x onerror=evil()>",
    '"><script>evil()</script>',
    "' evil='1",
    "</title></style></script><evil>",
    "-->]]><evil a='",
    "&lt;evil&gt;&#60;evil&#62;",
    "a | b | <evil> |\n| c | d |\n\n<evil>\n\n# evil",
    "`<evil>` $\\href{javascript:evil()}$ [x](javascript:evil()) ![x](http://evil)",
    "\udcff\x00\x1b]0;evil\x07\u202e<evil>",
]


class Elements(HTMLParser):
    """Names of all elements, with their attributes, and the text that is shown."""

    def __init__(self, text):
        super().__init__()
        self.names, self.attributes, self.text = set(), set(), []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.names.add(tag)
        self.attributes |= {name for name, _ in attrs}

    def handle_data(self, data):
        self.text.append(data)


def written(form="html"):
    report(["runs", "-o", "out", f"--format={form}"])
    return Path(f"out/report.{form}").read_text()


def picture(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    save_image(torch.rand(3, 8, 8), path, format="png")


def fill(text):
    """Write runs in which ``text`` stands wherever a text can."""
    name, valid = text.replace("/", "").replace("\x00", "") + "_", text.encode(errors="replace").decode()
    for number, place in enumerate((f"runs/vqvae/{name}", OTHER)):
        make(place, model__lr=valid * (1 + number), wandb=valid, samples={valid: valid}, model__extra={valid: number})
        cell = '"' + valid.replace('"', '""').replace("\n", " ") + '"'
        log = Path(place) / "metrics.csv"
        lines = zip(log.read_text().splitlines()[:9], [cell, *"12345678"], strict=True)
        log.write_text("".join(f"{line},{end}\n" for line, end in lines))
        add_event(place, text, 20, text, text)
        picture(Path(place) / "samples" / f"{name}20.png")
        (Path(place) / "samples" / f"broken{name}30.png").mkdir()
        (Path(place) / "test.csv").write_text(f"step,time,test/{cell[1:-1]}\n0,1,2\n")
    (OTHER / "finished.json").unlink()
    (OTHER / "failed.json").write_text(json.dumps({"error": text}))
    damaged = Path(f"runs/vqvae/damaged{name}")
    damaged.mkdir()
    (damaged / "config.yaml").write_text("a: [")


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    """Elements and attributes of a page of the same runs with harmless texts."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("harmless"))
        fill("harmless")
        return Elements(written())


@pytest.mark.parametrize("text", STRINGS)
def test_no_text_adds_an_element_to_the_page_or_a_cell_to_the_markdown(text, expected, capsys):
    fill(text)
    found = Elements(written())
    assert (found.names, found.attributes) == (expected.names, expected.attributes)
    shown = "".join(found.text)
    assert shown.count("evil") > 10, "it is shown as text"
    assert not re.search("[\x00\x1b\u202e]", shown + capsys.readouterr().out.replace("\n", ""))

    page = written("md")
    assert set(re.findall(r"(?<!\\)<[^\s>]*", page)) <= {"<details", "<summary", "</summary", "</details"}
    for table in re.findall(r"(?:^\|.*\n)+", page, re.MULTILINE):
        cells = [len(re.findall(r"(?<!\\)(?:\\\\)*\|", line)) for line in table.splitlines()]
        assert len(set(cells)) == 1
        assert len(cells) >= 3
    assert not re.search(r"(?<!\\)[$`]|^#+ *evil", page, re.MULTILINE)
    for svg in Path("out/report_files").glob("*.svg"):
        assert Elements(svg.read_text()).names <= {"svg", "style", "path", "text", "title", "circle"}


def test_plain_text_is_escaped_and_markup_is_not():
    assert tag("a", "<b>", tag("i", "&"), href='"') == '<a href="&quot;">&lt;b&gt;<i>&amp;</i></a>'
    assert tag("a", "<", Markup("<b>"), 1, title=Markup("<b>")) == '<a title="&lt;b&gt;">&lt;<b>1</a>'


def test_the_policy_allows_only_the_style_and_script_of_the_page():
    make(RUN)
    text = written()
    (policy,) = re.findall(r'http-equiv="Content-Security-Policy" content="([^"]*)"', text)
    rules = dict(rule.split(maxsplit=1) for rule in policy.replace("&#x27;", "'").split("; "))
    assert (rules["default-src"], rules["img-src"]) == ("'none'", "data:")
    assert text.index("Content-Security-Policy") < text.index("<style>")
    for name in ("style", "script"):
        (content,) = re.findall(f"<{name}>(.*?)</{name}>", text, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert rules[f"{name}-src"] == f"'sha256-{digest}'"
    assert not re.search(r"<[^>]* (style|on\w+)=", text)


def link(path, target):
    if path.is_dir():
        path.rename(path.with_name("moved"))
    path.unlink(missing_ok=True)
    path.symlink_to(target)


def pipe(path, _):
    path.unlink(missing_ok=True)
    os.mkfifo(path)


def put(path, content):
    path.write_bytes(content if isinstance(content, bytes) else content.encode())


def grow(path, size):
    with path.open("r+b" if path.exists() else "wb") as file:
        file.truncate(size)


def folder(path, _):
    path.unlink()
    path.mkdir()


def enlarge(path, pixels):
    content = bytearray(path.read_bytes())
    content[16:24] = pixels.to_bytes(4) * 2
    path.write_bytes(content)


STEP, LAST, LOG, CONFIG = "samples/step_000060.png", "checkpoints/last.ckpt", "metrics.csv", "config.yaml"
LAUGHS = "a: &a [x]\n" + "".join(f"{b}: &{b} [{', '.join(['*' + a] * 20)}]\n" for a, b in pairwise("abcdefghi"))
ODD_CONFIG = "{model: [], seed_everything: {a: [1]}, checkpoint: 5, trainer: {max_steps: x},\n? : }"
HUGE = "1" + "0" * 400
HOSTILE = [  # file of the run, what happens to it, with what, the message
    (STEP, link, "../../../../secret", "cannot be read (it is a link"),
    (STEP, link, "/dev/zero", "cannot be read (it is a link"),
    ("samples", link, "moved", ""),
    (STEP, pipe, None, "cannot be read (it is no regular file"),
    (STEP, put, SECRET, "cannot be read (it is no PNG"),
    (STEP, put, b"\x89PNG\r\n\x1a\n" + SECRET, "cannot be read (it is no PNG"),
    (STEP, grow, LARGEST_PICTURE + 1, "cannot be read (it is larger than 32 MB"),
    (STEP, enlarge, 2**15, "cannot be read (it is no PNG of at most"),
    ("samples/step_\u00b2\u0663.png", put, SECRET, ""),
    (f"samples/s_{'9' * 200}.png", put, SECRET, ""),
    (LOG, link, "/etc/passwd", "metrics.csv cannot be read: it is a link"),
    (LOG, link, "/dev/zero", "metrics.csv cannot be read: it is a link"),
    (LOG, pipe, None, "metrics.csv cannot be read: it is no regular file"),
    (LOG, grow, 10**10, "metrics.csv cannot be read: it is larger than"),
    (LOG, folder, None, "metrics.csv"),
    (LOG, put, "step," + ",".join(map(str, range(10**5))) + "\n0,1\n", "1 line of metrics.csv"),
    (LOG, put, "step,a\n0," + "1" * 10**6 + "\n", "1 line of metrics.csv"),
    ("test.csv", link, "/dev/zero", "test.csv cannot be read"),
    ("test.csv", put, "step,test/a\n0,1\nx\n", "1 line of test.csv"),
    (CONFIG, link, "/etc/passwd", "config.yaml cannot be read: it is a link"),
    (CONFIG, pipe, None, "config.yaml cannot be read"),
    (CONFIG, grow, 2 * 10**9, "config.yaml cannot be read: it is larger than"),
    (CONFIG, put, LAUGHS, "config.yaml is damaged"),
    (CONFIG, put, "a: &a {b: *a}", "config.yaml is damaged"),
    (CONFIG, put, "{a: " * 500 + "1" + "}" * 500, "config.yaml is damaged"),
    (CONFIG, put, "a: 2026-13-45", "config.yaml is damaged"),
    (CONFIG, put, "a: " + "9" * 5000, "config.yaml is damaged"),
    (CONFIG, put, "".join(f"a{i}: {i}\n" for i in range(50_000)), "config.yaml is damaged"),
    (CONFIG, put, "a." * 10**5 + "a: 1", "config.yaml is damaged"),
    (CONFIG, put, ODD_CONFIG, ""),
    (CONFIG, put, f"{{model: {{base_lr: {HUGE}}}, data: {{batch_size: {HUGE}}}}}", ""),
    ("health.jsonl", link, "/dev/zero", "health.jsonl cannot be read"),
    ("health.jsonl", pipe, None, "health.jsonl cannot be read"),
    ("failed.json", pipe, None, ""),
    ("failed.json", put, "[" * 10**5, ""),
    ("finished.json", pipe, None, ""),
    ("finished.json", link, "/dev/zero", ""),
    (".lock", pipe, None, ""),
    (LAST, pipe, None, ""),
    (LAST, link, "/dev/zero", ""),
    (LAST, put, "PK", ""),
]
NAMES = [f"{name[:20]}-{do.__name__}-{str(what)[:12]}" for name, do, what, _ in HOSTILE]


@pytest.mark.timeout(60)
@pytest.mark.parametrize(("name", "do", "what", "words"), HOSTILE, ids=NAMES)
def test_no_folder_ends_a_report_or_leads_out_of_itself(name, do, what, words, capsys):
    csv.field_size_limit(2**17)  # Python's default, which other tests of this process may have raised
    Path("secret").write_bytes(SECRET)
    make(RUN)
    make(OTHER, model__lr=0.5)
    if name == LAST:
        (RUN / "finished.json").unlink()
        (RUN / "checkpoints").mkdir()
    do(RUN / name, what)
    pages = written() + written("md")
    assert "out/report.html: 2 runs" in capsys.readouterr().out
    assert words in pages
    for secret in (SECRET[:20].decode(), "LS0tLS1CRUdJTiBQUklWQVRF", "root:x:0"):
        assert secret not in pages
    assert pages.count("other") > 1
    assert all(SECRET not in path.read_bytes() for path in Path("out").rglob("*") if path.is_file())


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    ("name", "do", "what"), [case[:3] for case in HOSTILE if case[0] in (LOG, CONFIG, "health.jsonl")]
)
def test_the_facts_of_a_checkpoint_in_such_a_folder(name, do, what, capsys):
    make(RUN)
    write_checkpoint(RUN / LAST, 60, hyper_parameters={"_class_path": "vqlab.VQVAE", "lr": 0.1})
    do(RUN / name, what)
    info([str(RUN / LAST)])
    printed = capsys.readouterr().out
    assert "VQVAE" in printed
    assert "root:" not in printed


ODD = [5, "x", [1], (1, 2), {"a": {1: 2}}, {"\x1b[2J": "\x1b[2J"}, float("nan"), True, None]


@pytest.mark.parametrize("key", ["epoch", "hyper_parameters", "made_by", "config", "callbacks", "averaging_state"])
def test_odd_values_in_a_checkpoint_are_shown_or_left_out(key, capsys):
    for value in ODD:
        for content in (value, {"LastAndBest": value}, {"LastAndBest": {"best_step": value, "best_score": 1.0}},
                        {"LastAndBest": {"best_step": 3, "best_score": value}}):  # fmt: skip
            sound = {"hyper_parameters": {"_class_path": "vqlab.VQVAE"}}
            write_checkpoint(Path("a.ckpt"), 3, **{**sound, key: content})
            with suppress(UserError):
                info(["a.ckpt"])
    assert "\x1b" not in capsys.readouterr().out


GOOD = {"event": "a", "step": 1, "evidence": "b", "hint": "c"}
WRONG = [("evidence", 5), ("event", 5), ("event", ["a"]), ("hint", None), ("hint", "=[" * 10**5), ("step", -1)]
HEALTH = [json.dumps({**GOOD, name: value}) for name, value in [*WRONG, ("step", True), ("step", math.nan)]]
HEALTH += [json.dumps(GOOD).replace("1", number) for number in ("1e400", HUGE)]
HEALTH += ['{"event": "a", "evidence": "b", "hint": "c"}', "[1]", "5", "null", '"event"', "[" * 100_000]


@pytest.mark.parametrize("line", HEALTH)
def test_an_odd_line_of_health_is_left_out(line):
    make(RUN)
    (RUN / "health.jsonl").write_text(f"{line}\n")
    add_event(RUN, "collapse", 40)
    run = read_run(RUN)
    assert [(v.event, v.step) for v in run.events] == [("collapse", 40)]
    assert run.problems == ["1 line of health.jsonl cannot be read"]


NUMBERS = {
    "1e400 -1e400": (0, 2),
    "1e308 -1e308": (2, 0),
    "1e99 -1e99": (0, 2),
    "1e-400 0 1e-320": (0, 3),
    "5e-324 1e-323": (0, 2),
    "5e-324 1": (0, 2),
    "nan nan": (0, 2),
    "1e100 1e-300": (0, 2),
    "0x1 1_0": (1, 1),
}


@pytest.mark.parametrize("values", NUMBERS)
@pytest.mark.parametrize("many", [1, 30])
def test_odd_values_are_drawn_or_left_out(values, many):
    for folder in (RUN, OTHER):
        make(folder)
        lines = [f"{i},1,{v},{v},{v}" for i, v in enumerate(values.split() * many)]
        head = "step,time,val/loss,val/psnr,train/samples_per_second"
        (folder / "metrics.csv").write_text("\n".join([head, *lines, ""]))
    damaged, kept = (many * count for count in NUMBERS[values])
    run = read_run(RUN)
    assert (run.log.damaged, len(run.log.series.get("val/loss", []))) == (damaged, kept)
    written()
    run_metrics(RUN, 1)


@pytest.mark.parametrize(
    "line", ["-1,1,2", "1e3,1,2", f"{HUGE},1,2", "1,inf,2", "1,nan,2", "1,1e308,2", '1,"1,2', "1,1"]
)
def test_impossible_steps_and_times_are_damage(line):
    make(RUN)
    (RUN / "metrics.csv").write_text(f"step,time,val/loss\n0,5,0.5\n{line}\n9,7,0.25\n")
    run = read_run(RUN)
    assert (run.log.damaged, run.log.series["val/loss"], run.seconds) == (1, [(1, 0.5), (10, 0.25)], 2)


def test_a_file_is_read_up_to_its_limit_and_through_a_link_to_the_folder():
    Path("real").mkdir()
    Path("real/a").write_bytes(b"12345")
    Path("linked").symlink_to("real")
    assert read_file(Path("linked"), "a", 5) == b"12345"
    for name, limit, words in (("a", 4, "larger"), ("b", 4, "No such file"), ("../real/a", 5, "link")):
        with pytest.raises(OSError, match=words):
            read_file(Path("real"), name, limit)
    os.mkfifo("real/.lock")
    assert not is_running(Path("real"))


def test_a_sweep_writes_its_log_through_no_link():
    sweeps.write(rows=sweeps.ROWS[:1])
    folder = Path("runs/toy/a")
    folder.mkdir(parents=True)
    Path("victim").write_text("mine")
    (folder / "sweep.log").symlink_to("../../../victim")
    with pytest.raises(UserError, match=r"sweep\.log cannot be written"):
        sweeps.run()
    assert Path("victim").read_text() == "mine"


@pytest.mark.parametrize("write", [partial(append, text="x"), lambda path: write_atomic(path).__enter__()])
def test_nothing_is_written_through_a_link(write):
    Path("victim").write_text("mine")
    for name in ("a.txt", ".a.txt.partial"):
        Path(name).symlink_to("victim")
    with pytest.raises(UserError, match="cannot be written"):
        write(Path("a.txt"))
    assert Path("victim").read_text() == "mine"


@pytest.mark.parametrize(
    ("header", "line"), [("\ufeffstep,time,train/loss", "9,1,0.5"), ('step,time,"train/loss"', '9,1,"0.5"')]
)
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_a_log_that_a_spreadsheet_wrote_is_read_and_continued(header, line, end):
    RUN.mkdir(parents=True)
    (RUN / "metrics.csv").write_bytes(f"{header}{end}{line}{end}".encode())
    assert read_log(RUN / "metrics.csv").series == {"train/loss": [(10, 0.5)]}
    CSVLog(RUN).log_metrics({"train/loss": 0.25}, 19)
    log = read_log(RUN / "metrics.csv")
    assert (log.series, log.damaged) == ({"train/loss": [(10, 0.5), (20, 0.25)]}, 0)


def test_files_with_a_byte_order_mark_are_read():
    make(RUN)
    for name in ("config.yaml", "finished.json"):
        (RUN / name).write_text("\ufeff" + (RUN / name).read_text(), encoding="utf-8")
    (RUN / "health.jsonl").write_text("\ufeff", encoding="utf-8")
    add_event(RUN, "collapse", 40)
    run = read_run(RUN)
    assert (run.model, run.problems, len(run.events)) == ("VQVAE", [], 1)
    Path("x.yaml").write_text("\ufeffa: &a {x: 1}\nb: {<<: *a, y: [1, 2]}\n", encoding="utf-8")
    assert read_yaml(Path("x.yaml")) == {"a": {"x": 1}, "b": {"x": 1, "y": [1, 2]}}, "an experiment may use aliases"
