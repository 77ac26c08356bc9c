"""Run folders from someone else: nothing of them gets into a page as HTML, and nothing outside of them is read."""

import base64
import csv
import hashlib
import json
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


def picture(path, size=8):
    path.parent.mkdir(parents=True, exist_ok=True)
    save_image(torch.rand(3, size, size), path, format="png")


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
def test_no_text_brings_an_element_or_an_attribute_into_the_page(text, expected, capsys):
    fill(text)
    found = Elements(written())
    assert (found.names, found.attributes) == (expected.names, expected.attributes)
    shown = "".join(found.text)
    assert shown.count("evil") > 10, "it is shown as text"
    assert not re.search("[\x00\x1b\u202e]", shown + capsys.readouterr().out.replace("\n", ""))


@pytest.mark.parametrize("text", STRINGS)
def test_no_text_brings_html_or_a_cell_into_the_markdown(text):
    fill(text)
    page = written("md")
    assert set(re.findall(r"(?<!\\)<[^\s>]*", page)) <= {"<details", "<summary", "</summary", "</details"}
    for table in re.findall(r"(?:^\|.*\n)+", page, re.MULTILINE):
        cells = [len(re.findall(r"(?<!\\)(?:\\\\)*\|", line)) for line in table.splitlines()]
        assert len(set(cells)) == 1
        assert len(cells) >= 4
    assert not re.search(r"(?<!\\)[$`]|^#+ *evil", page, re.MULTILINE)
    for svg in Path("out/report_files").glob("*.svg"):
        assert Elements(svg.read_text()).names <= {"svg", "style", "path", "text", "title", "circle"}


def test_plain_text_is_escaped_and_markup_is_not():
    assert tag("a", "<b>", tag("i", "&"), href='"') == '<a href="&quot;">&lt;b&gt;<i>&amp;</i></a>'
    assert tag("a", "<", Markup("<b>"), 1, title=Markup("<b>")) == '<a title="&lt;b&gt;">&lt;<b>1</a>'


def test_the_policy_allows_the_page_its_own_style_and_script_alone():
    make(RUN)
    text = written()
    (policy,) = re.findall(r'http-equiv="Content-Security-Policy" content="([^"]*)"', text)
    rules = dict(rule.split(maxsplit=1) for rule in policy.replace("&#x27;", "'").split("; "))
    assert (rules["default-src"], rules["img-src"]) == ("'none'", "data:")
    assert text.index("Content-Security-Policy") < text.index("<style>")
    for name in ("style", "script"):
        (content,) = re.findall(f"<{name}>(.*?)</{name}>", text, re.DOTALL)
        assert rules[f"{name}-src"] == f"'sha256-{base64_sha256(content)}'"
    assert not re.search(r"<[^>]* (style|on\w+)=", text)


def base64_sha256(content):
    return base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()


def link(name, target):
    def put():
        path = RUN / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_dir():
            path.rename(path.with_name("moved"))
        path.unlink(missing_ok=True)
        path.symlink_to(target)

    return put


def pipe(name):
    def put():
        (RUN / name).parent.mkdir(parents=True, exist_ok=True)
        (RUN / name).unlink(missing_ok=True)
        os.mkfifo(RUN / name)

    return put


def put(name, content):
    return lambda: (RUN / name).write_bytes(content)


def unfinished(damage):
    def put():
        (RUN / "finished.json").unlink()
        (RUN / "checkpoints").mkdir()
        damage()

    return put


def sparse(name, size, begin=b""):
    def grow():
        (RUN / name).write_bytes(begin)
        os.truncate(RUN / name, size)

    return grow


def big_picture():
    content = bytearray((RUN / "samples/step_000060.png").read_bytes())
    content[16:24] = (2**15).to_bytes(4) * 2
    (RUN / "samples/step_000060.png").write_bytes(content)


LAUGHS = "a: &a [x]\n" + "".join(f"{b}: &{b} [{', '.join(['*' + a] * 20)}]\n" for a, b in pairwise("abcdefghi"))
STEP, LAST = "samples/step_000060.png", "checkpoints/last.ckpt"
HOSTILE = {
    "picture is a link": (link(STEP, "../../../../secret"), "cannot be read (it is a link"),
    "picture is a device": (link(STEP, "/dev/zero"), "cannot be read (it is a link"),
    "pictures lie behind a link": (link("samples", "moved"), None),
    "picture is a pipe": (pipe(STEP), "cannot be read (it is no regular file"),
    "picture is no PNG": (put(STEP, SECRET), "cannot be read (it is no PNG"),
    "picture begins as a PNG": (put(STEP, b"\x89PNG\r\n\x1a\n" + SECRET), "cannot be read (it is no PNG"),
    "picture is large": (sparse(STEP, LARGEST_PICTURE + 1), "cannot be read (it is larger than 32 MB"),
    "picture has many pixels": (big_picture, "cannot be read (it is no PNG of at most"),
    "picture of a strange step": (lambda: picture(RUN / "samples/step_\u00b2\u0663.png"), None),
    "picture of a huge step": (lambda: picture(RUN / f"samples/s_{'9' * 200}.png"), None),
    "log is a link": (link("metrics.csv", "/etc/passwd"), "metrics.csv cannot be read: it is a link"),
    "log is a device": (link("metrics.csv", "/dev/zero"), "metrics.csv cannot be read: it is a link"),
    "log is a pipe": (pipe("metrics.csv"), "metrics.csv cannot be read: it is no regular file"),
    "log is huge": (sparse("metrics.csv", 10**10, b"step,a\n"), "metrics.csv cannot be read: it is larger than"),
    "log is a folder": (lambda: (RUN / "metrics.csv").unlink() or (RUN / "metrics.csv").mkdir(), "metrics.csv"),
    "log of many metrics": (
        put("metrics.csv", ("step," + ",".join(map(str, range(10**5))) + "\n0,1\n").encode()),
        "1 line of metrics.csv",
    ),
    "log of a large field": (put("metrics.csv", b"step,a\n0," + b"1" * 10**6 + b"\n"), "1 line of metrics.csv"),
    "test.csv is a link": (link("test.csv", "/dev/zero"), "test.csv cannot be read"),
    "test.csv is damaged": (put("test.csv", b"step,test/a\n0,1\nx\n"), "1 line of test.csv"),
    "config is a link": (link("config.yaml", "/etc/passwd"), "config.yaml cannot be read: it is a link"),
    "config is a pipe": (pipe("config.yaml"), "config.yaml cannot be read"),
    "config is huge": (sparse("config.yaml", 2 * 10**9), "config.yaml cannot be read: it is larger than"),
    "config repeats its aliases": (put("config.yaml", LAUGHS.encode()), "config.yaml is damaged"),
    "config holds itself": (put("config.yaml", b"a: &a {b: *a}"), "config.yaml is damaged"),
    "config is deep": (put("config.yaml", b"{a: " * 500 + b"1" + b"}" * 500), "config.yaml is damaged"),
    "config has an impossible date": (put("config.yaml", b"a: 2026-13-45"), "config.yaml is damaged"),
    "config has a long number": (put("config.yaml", b"a: " + b"9" * 5000), "config.yaml is damaged"),
    "config of many settings": (
        put("config.yaml", "".join(f"a{i}: {i}\n" for i in range(50_000)).encode()),
        "config.yaml is damaged",
    ),
    "config of a long name": (put("config.yaml", b"a." * 10**5 + b"a: 1"), "config.yaml is damaged"),
    "config of strange values": (
        put("config.yaml", b"{model: [], seed_everything: {a: [1]}, checkpoint: 5, trainer: {max_steps: x},\n? : }"),
        None,
    ),
    "config of huge numbers": (
        put("config.yaml", f"{{model: {{base_lr: 1{'0' * 400}}}, data: {{batch_size: 1{'0' * 400}}}}}".encode()),
        None,
    ),
    "health is a link": (link("health.jsonl", "/dev/zero"), "health.jsonl cannot be read"),
    "health is a pipe": (pipe("health.jsonl"), "health.jsonl cannot be read"),
    "failed.json is a pipe": (pipe("failed.json"), None),
    "failed.json is deep": (put("failed.json", b"[" * 10**5), None),
    "finished.json is a pipe": (pipe("finished.json"), None),
    "finished.json is a device": (link("finished.json", "/dev/zero"), None),
    "lock is a pipe": (pipe(".lock"), None),
    "checkpoint is a pipe": (unfinished(pipe(LAST)), None),
    "checkpoint is a device": (unfinished(link(LAST, "/dev/zero")), None),
    "checkpoint is no checkpoint": (unfinished(put(LAST, b"PK")), None),
}  # fmt: skip


@pytest.mark.timeout(60)
@pytest.mark.parametrize("name", HOSTILE)
def test_no_folder_ends_a_report_or_leads_out_of_itself(name, capsys):
    csv.field_size_limit(2**17)  # Python's default, which other tests of this process may have raised
    Path("secret").write_bytes(SECRET)
    make(RUN)
    make(OTHER, model__lr=0.5)
    hostile, words = HOSTILE[name]
    hostile()
    text = written()
    assert capsys.readouterr().out.splitlines()[-1].startswith("out/report.html: 2 runs")
    assert (words or "") in text
    for secret in (SECRET[:20].decode(), "LS0tLS1CRUdJTiBQUklWQVRF", "root:x:0"):
        assert secret not in text
    assert "other" in text
    assert "other" in written("md")
    assert all(SECRET not in path.read_bytes() for path in Path("out").rglob("*") if path.is_file())


@pytest.mark.timeout(60)
@pytest.mark.parametrize("name", [name for name in HOSTILE if name.startswith(("config is", "log is", "health is"))])
def test_the_facts_of_a_checkpoint_in_such_a_folder(name, capsys):
    make(RUN)
    write_checkpoint(RUN / LAST, 60, hyper_parameters={"_class_path": "vqlab.VQVAE", "lr": 0.1})
    HOSTILE[name][0]()
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


HEALTH = [
    '{"event": "a", "step": 1, "evidence": 5, "mend": "c"}',
    '{"event": 5, "step": 1, "evidence": "b", "mend": "c"}',
    '{"event": "a", "step": 1, "evidence": "b", "mend": null}',
    '{"event": ["a"], "step": 1, "evidence": "b", "mend": "c"}',
    '{"event": "a", "step": 1e400, "evidence": "b", "mend": "c"}',
    '{"event": "a", "step": NaN, "evidence": "b", "mend": "c"}',
    '{"event": "a", "step": -1, "evidence": "b", "mend": "c"}',
    '{"event": "a", "step": 1' + "0" * 400 + ', "evidence": "b", "mend": "c"}',
    '{"event": "a", "step": true, "evidence": "b", "mend": "c"}',
    '{"event": "a", "evidence": "b", "mend": "c"}',
    '{"event": "a", "step": 1, "evidence": "b", "mend": "' + "--a=[" * 10**5 + '"}',
    "[1]",
    "5",
    "null",
    '"event"',
    "[" * 100_000,
]


@pytest.mark.parametrize("line", HEALTH)
def test_an_odd_line_of_health_is_left_out(line):
    make(RUN)
    (RUN / "health.jsonl").write_text(f"{line}\n")
    add_event(RUN, "collapse", 40)
    run = read_run(RUN)
    assert [(v.event, v.step) for v in run.events] == [("collapse", 40)]
    assert run.problems == ["1 line of health.jsonl cannot be read"]
    written()


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
        (folder / "metrics.csv").write_text(
            "\n".join(["step,time,val/loss,val/psnr,train/samples_per_second", *lines, ""])
        )
    damaged, kept = (many * count for count in NUMBERS[values])
    run = read_run(RUN)
    assert (run.log.damaged, len(run.log.series.get("val/loss", []))) == (damaged, kept)
    written()
    written("md")
    run_metrics(RUN, 1)


@pytest.mark.parametrize(
    "line", ["-1,1,2", "1e3,1,2", f"1{'0' * 400},1,2", "1,inf,2", "1,nan,2", "1,1e308,2", '1,"1,2', "1,1"]
)
def test_impossible_steps_and_times_are_damage(line):
    make(RUN)
    (RUN / "metrics.csv").write_text(f"step,time,val/loss\n0,5,0.5\n{line}\n9,7,0.25\n")
    run = read_run(RUN)
    assert (run.log.damaged, run.log.series["val/loss"], run.seconds) == (1, [(1, 0.5), (10, 0.25)], 2)
    written()


def test_a_file_is_read_up_to_its_limit_and_through_a_link_to_the_folder():
    Path("real").mkdir()
    Path("real/a").write_bytes(b"12345")
    Path("linked").symlink_to("real")
    assert read_file(Path("linked"), "a", 5) == b"12345"
    with pytest.raises(OSError, match="larger"):
        read_file(Path("real"), "a", 4)
    with pytest.raises(FileNotFoundError):
        read_file(Path("real"), "b", 4)
    with pytest.raises(OSError, match="link"):
        read_file(Path("real"), "../real/a", 5)
    os.mkfifo("real/.lock")
    assert not is_running(Path("real"))


def test_an_experiment_in_yaml_may_use_aliases():
    Path("x.yaml").write_text("\ufeffa: &a {x: 1}\nb: {<<: *a, y: [1, 2]}\n", encoding="utf-8")
    assert read_yaml(Path("x.yaml")) == {"a": {"x": 1}, "b": {"x": 1, "y": [1, 2]}}


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


def test_config_and_json_with_a_mark_are_read():
    make(RUN)
    for name in ("config.yaml", "finished.json"):
        (RUN / name).write_text("\ufeff" + (RUN / name).read_text(), encoding="utf-8")
    (RUN / "health.jsonl").write_text("\ufeff", encoding="utf-8")
    add_event(RUN, "collapse", 40)
    run = read_run(RUN)
    assert (run.model, run.problems, len(run.events)) == ("VQVAE", [], 1)
