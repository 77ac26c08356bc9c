"""``vqlab report``: its numbers equal the logs, the page needs no other file, and damaged runs are listed."""

import base64
import csv
import itertools
import re
import shutil
import statistics
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

from tests.e2e.tiny import fails
from tests.helpers.run_folders import add_event, last_and_best, make
from vqlab.callbacks.sample_grid import write_gif
from vqlab.cli.report import report

LR = {"a": 0.001, "b": 0.003}


class Page(HTMLParser):
    """Tables as lists of [text, exact value, is best], the text, all tags, and all links."""

    def __init__(self, text):
        super().__init__()
        self.tables, self.links, self.text, self.open, self.tags = [], [], [], [], set()
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.links += [value for name, value in attrs.items() if name in ("src", "href", "action", "srcset")]
        if tag == "table":
            self.tables.append([])
        if tag == "tr":
            self.tables[-1].append([])
        if tag in ("td", "th"):
            self.tables[-1][-1].append(["", float(attrs.get("data-v", "nan")), "best" in attrs.get("class", "")])
        self.open.append(tag)
        self.tags.add((tag, *attrs))

    def handle_data(self, data):
        self.text.append(data)
        if self.open and self.open[-1] in ("td", "th", "a"):
            self.tables[-1][-1][-1][0] += data

    def handle_endtag(self, tag):
        self.open.append("")

    def table(self, *names):
        """Return the first table that has these columns, as a list of lines by column."""
        found = next(table for table in self.tables if {*names} <= {cell[0] for cell in table[0]})
        return [dict(zip([cell[0] for cell in found[0]], line, strict=True)) for line in found[1:]]


@pytest.fixture
def runs():
    """Write runs of two settings with three seeds each; return the lines of each log."""
    found = {}
    for (row, lr), seed in itertools.product(LR.items(), range(3)):
        options = {"model__lr": lr, "seed_everything": seed, "data__seed": seed, "shift": lr * 1000}
        found[f"{row}_seed{seed}"] = make(f"runs/vqvae/{row}_seed{seed}", **options)
    return found


def html():
    report(["runs", "-o", "out"])
    return Path("out/report.html").read_text()


def bests(runs):
    """Return the best val/loss of each run, by setting."""
    return [[last_and_best(runs[f"{row}_seed{seed}"], "val/loss", "min")[2] for seed in range(3)] for row in "ab"]


def test_numbers_equal_metrics_csv(runs):
    table = Page(html()).table("run", "lr", "seed")
    assert len(table) == 6
    for cells in table:
        name = cells["run"][0]
        last, _, best, best_step = last_and_best(runs[name], "val/loss", "min")
        assert (cells["best val/loss"][1], cells["at step"][1], cells["last val/loss"][1]) == (best, best_step, last)
        assert float(cells["best val/loss"][0]) == pytest.approx(best, rel=1e-3)
        assert cells["last val/psnr"][1] == last_and_best(runs[name], "val/psnr", "max")[0]
        with open(f"runs/vqvae/{name}/metrics.csv") as file:
            steps = [int(row["step"]) for row in csv.DictReader(file)]
        assert cells["steps"][1] == steps[-1] + 1
        assert cells["status"][0] == "finished"
        assert cells["best val/loss"][2] == (best == min(map(min, bests(runs)))), "the best of the column is marked"


def test_means_over_seeds_and_effects(runs, capsys):
    page = Page(html())
    repeats = page.table("setting", "runs")
    assert [line["setting"][0] for line in repeats] == ["a", "b"]
    for best, line in zip(bests(runs), repeats, strict=True):
        mean, spread = map(float, line["best val/loss"][0].split(" ± "))
        assert mean == pytest.approx(statistics.fmean(best), rel=1e-3)
        assert spread == pytest.approx(statistics.stdev(best), rel=0.06)
    effect = page.table("metric", "pairs")[0]
    differences = [b - a for a, b in zip(*bests(runs), strict=True)]
    assert [cell[0] for cell in [*effect.values()][:4]] == ["best val/loss", "lr", "0.001", "0.003"]
    assert effect["difference"][1] == pytest.approx(statistics.fmean(differences))
    assert effect["±"][1] == pytest.approx(statistics.stdev(differences))
    assert "6 runs of VQVAE, 2 settings with repeats: all finished." in capsys.readouterr().out


def test_page_is_self_contained(runs):
    add_event("runs/vqvae/a_seed1", "codebook_collapse", 3100, "6.0% of 64 codes used", "set --a.b=[1,2]")
    text = html()
    page = Page(text)
    folders = {f"../{folder}" for folder in map(str, Path("runs/vqvae").iterdir())}
    assert {link for link in page.links if not link.startswith("data:")} == folders
    assert not re.search(r"url\(|@import|https?://|fetch\(|XMLHttp", text)
    assert "content=\"default-src 'none'; " in text
    assert text.count("data:image/png;base64,") == 12, "two pictures of each run"
    assert text.count("data:image/svg+xml;base64,") == 4, "the curves"
    (event,) = page.table("event", "hint")
    shown = ["codebook collapse", "a_seed1", "3,100", "6.0% of 64 codes used", "set --a.b=[1,2]"]
    assert [cell[0] for cell in event.values()] == shown
    assert [line["health"][0] for line in page.table("run", "lr")].count("codebook_collapse") == 1
    assert "data.batch_size" in {line["setting"][0] for line in page.table("setting", "value")}
    assert [p.name for p in Path("out").iterdir()] == ["report.html"]


EVIL = ["<evil>", "</title></style></script><evil a='"]
EVIL += ["&lt;evil&gt; | <evil> |\n| c | [evil](x) `", "\x1b]0;evil\x07\u202e"]


@pytest.mark.parametrize("evil", EVIL)
def test_all_text_is_escaped(evil):
    tags = []
    for name, text in (("harmless", "harmless"), (evil.replace("/", ""), evil)):
        for number in (1, 2):
            folder = f"runs/vqvae/{name}{number}"
            make(folder, model__lr=text * number, model__extra={text: text})
            add_event(folder, text, 20, text, text)
            (Path(folder) / f"samples/{name}_20.png").touch()
        page = Page(html())
        report(["runs", "-o", "out", "--format=md"])
        markdown = Path("out/report.md").read_text()
        tags.append((page.tags, set(re.findall(r"<[^\s>]*", markdown))))
        shutil.rmtree("runs")
    assert tags[0] == tags[1]
    assert not re.search("[\x00\x1b\u202e]", "".join(page.text) + markdown)
    for table in re.findall(r"(?:^\|.*\n)+", markdown, re.MULTILINE):
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()}) == 1


def test_damaged_runs_are_listed(runs, capsys):
    folder = Path("runs/vqvae")
    (folder / "a_seed0/config.yaml").unlink()
    (folder / "a_seed1/config.yaml").write_text("model: {class_path: [")
    (folder / "a_seed2/metrics.csv").unlink()  # as before the first line
    metrics = folder / "b_seed0/metrics.csv"
    metrics.write_bytes(metrics.read_bytes()[:-9])
    (folder / "b_seed1/health.jsonl").write_bytes(b"\xff\xff")
    (folder / "b_seed2/finished.json").unlink()
    (folder / "b_seed2/failed.json").write_text('{"error": "CUDA <out> of memory"}')
    Path("runs/vqvae/c").mkdir()
    Path("runs/vqvae/c/metrics.csv").write_bytes(b"\xff\x00,\n\n")
    text = html()
    page, printed = Page(text), capsys.readouterr().out
    problems = [(line["run"][0].rpartition("/")[2], line["problem"][0]) for line in page.table("run", "problem")]
    assert problems == [
        ("a_seed0", "no config.yaml"),
        ("a_seed1", "config.yaml is damaged"),
        ("b_seed0", "1 line of metrics.csv cannot be read"),
        ("b_seed1", "1 line of health.jsonl cannot be read"),
        ("c", "no config.yaml"),
        ("b_seed2", "failed: CUDA <out> of memory"),
    ]
    assert all(f"runs/vqvae/{name}: {text}" in printed or "failed" in text for name, text in problems)
    assert len(page.table("run", "lr")) == 7
    assert "7 runs of VQVAE" in printed, "one section, also without config.yaml"
    assert "5 finished, 1 failed, 1 interrupted" in printed
    report(["runs", "-o", "out", "--format=md"])


def test_each_model_has_a_section_with_test_metrics(capsys):
    make("runs/vqvae/first")
    Path("runs/vqvae/first/test.csv").write_text("step,time,test/psnr\n0,1.0,12.34567\n")
    make("runs/sgan/first", model="SGAN", monitor=("val/psnr", "max"))
    text = html()
    assert re.findall(r"<h2>(\w+)</h2>", text) == ["SGAN", "VQVAE"]
    (line,) = Page(text).table("run", "test/psnr")
    assert line["test/psnr"][:2] == ["12.35", 12.34567]
    assert re.search(r"1 run of SGAN: finished\. Best val/psnr: \S+ at step \d+\.\n", capsys.readouterr().out)


def test_two_runs_are_compared_side_by_side(runs, capsys):
    make("runs/vqgan/c", model="VQGAN")
    report(["runs/vqvae/a_seed0", "runs/vqgan/c", "-o", "out"])
    page = Page(Path("out/report.html").read_text())
    settings = {
        line["setting"][0]: (line["a_seed0"][0], line["c"][0]) for line in page.table("setting", "a_seed0", "c")
    }
    assert settings == {"model": ("VQVAE", "VQGAN")}
    steps = re.findall(r"(?:a_seed0|c), step \d+", "".join(page.text))
    assert steps == ["c, step 20", "a_seed0, step 20", "c, step 60", "a_seed0, step 60"]
    assert "2 runs of VQGAN and VQVAE: all finished." in capsys.readouterr().out


def test_gif_of_a_run_is_shown(runs):
    write_gif(Path("runs/vqvae/b_seed2/samples"))
    report(["runs", "-o", "out"])
    content = base64.b64encode(Path("runs/vqvae/b_seed2/samples/steps.gif").read_bytes()).decode()
    assert Path("out/report.html").read_text().count(f"data:image/gif;base64,{content}") == 1


def test_markdown_and_its_pictures(runs):
    add_event("runs/vqvae/b_seed2", "loss_oscillation", 40)
    report(["runs", "-o", "out", "--format=md"])
    text = Path("out/report.md").read_text()
    linked = re.findall(r"!\[[^\n]*?\]\(([^)]*)\)", text)
    assert {*linked} == {str(path.relative_to("out")) for path in Path("out/report_files").iterdir()}
    assert len(linked) == 12 + 4
    (picture,) = Path("out/report_files").glob("*a_seed0-step-60*.png")
    assert picture.read_bytes() == Path("runs/vqvae/a_seed0/samples/step_000060.png").read_bytes()
    assert r"| loss oscillation | b\_seed2 | 40 | so it is | set --model.lr=1 |" in text
    assert re.search(
        r"^\| \[a\\_seed0\]\(../runs/vqvae/a_seed0\) \|.*\| 0\.001 \| 0 \| finished \|", text, re.MULTILINE
    )


@pytest.mark.parametrize(
    ("args", "words"),
    [(["nowhere"], "nowhere is not a folder"), (["bare"], "no run in bare"), (["runs", "-o", "file"], "-o")],
)
def test_message_of_mistake(args, words, capsys):
    make("runs/vqvae/first")
    Path("bare").mkdir()
    Path("file").touch()
    assert words in fails(capsys, ["report", *args])
    assert not Path("report").exists()


def test_report_does_not_import_torch(runs):
    call = [sys.executable, "-X", "importtime", "-m", "vqlab", "report", "runs"]
    done = subprocess.run(call, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    loaded = {line.rpartition("|")[2].strip().split(".")[0] for line in done.stderr.splitlines()}
    assert "yaml" in loaded
    assert not loaded & {"torch", "lightning"}
