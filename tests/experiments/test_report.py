"""``vqlab report``: its numbers are the log's, it needs nothing else, and damage does not stop it."""

import csv
import os
import re
import statistics
import subprocess
import sys
from contextlib import nullcontext
from html.parser import HTMLParser
from pathlib import Path

import pytest

from tests.helpers.run_folders import last_and_best, make, say
from vqlab.cli.main import main
from vqlab.cli.report import report
from vqlab.experiments.row_lock import row_lock

LR = {"a": 0.001, "b": 0.003}


class Page(HTMLParser):
    """Tables as lists of [text, exact value, is best], the text, and every attribute that could ask for something."""

    def __init__(self, text):
        super().__init__()
        self.tables, self.links, self.text, self.open = [], [], [], []
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

    def handle_data(self, data):
        self.text.append(data)
        if self.open and self.open[-1] in ("td", "th"):
            self.tables[-1][-1][-1][0] += data


@pytest.fixture
def runs():
    """Two settings with three seeds each; the lines of each log."""
    return {
        f"{row}_seed{seed}": make(
            f"runs/vqvae/{row}_seed{seed}", model__lr=lr, seed_everything=seed, data__seed=seed, shift=lr * 1000
        )
        for row, lr in LR.items()
        for seed in range(3)
    }


def html():
    report(["runs", "-o", "out"])
    return Path("out/report.html").read_text()


def test_numbers_are_those_of_metrics_csv(runs):
    table = Page(html()).tables[0]
    head = [cell[0] for cell in table[0]]
    assert head[:3] == ["run", "lr", "seed"]
    for line in table[1:]:
        cells = dict(zip(head, line, strict=True))
        lines = runs[cells["run"][0]]
        last, _, best, best_step = last_and_best(lines, "val/loss", "min")
        assert (cells["best val/loss"][1], cells["at step"][1], cells["last val/loss"][1]) == (best, best_step, last)
        assert float(cells["best val/loss"][0]) == pytest.approx(best, rel=1e-3)
        assert cells["last val/psnr"][1] == last_and_best(lines, "val/psnr", "max")[0]
        with open(f"runs/vqvae/{cells['run'][0]}/metrics.csv") as file:
            steps = [int(row["step"]) for row in csv.DictReader(file)]
        assert cells["steps"][1] == steps[-1] + 1
        assert cells["verdict"][0] == "finished"
    place = head.index("best val/loss")
    best = [line for line in table[1:] if line[place][2]]
    assert [line[place][1] for line in best] == [min(line[place][1] for line in table[1:])]


def test_mean_and_spread_over_seeds(runs):
    table = Page(html()).tables[1]
    assert [line[0][0] for line in table[1:]] == ["a", "b"]
    for row, line in zip("ab", table[1:], strict=True):
        best = [last_and_best(runs[f"{row}_seed{seed}"], "val/loss", "min")[2] for seed in range(3)]
        mean, spread = map(float, line[2][0].split(" ± "))
        assert mean == pytest.approx(statistics.fmean(best), rel=1e-3)
        assert spread == pytest.approx(statistics.stdev(best), rel=0.06)


def test_summary_names_what_moved_the_metric(runs, capsys):
    html()
    told = capsys.readouterr().out
    best = [[last_and_best(runs[f"{row}_seed{seed}"], "val/loss", "min")[2] for seed in range(3)] for row in "ab"]
    step = statistics.fmean(b - a for a, b in zip(*best, strict=True))
    assert "6 runs of VQVAE, 2 settings with repeats: all finished." in told
    found = re.search(r"The best val/loss was (not clearly )?moved by lr (.*?), 3 pairs\)", told)
    assert float(re.search(r"\(([+-][\d.]+) ±", found[2])[1]) == pytest.approx(step, rel=0.01)
    assert found[1] is None, "it was shifted by 2, chance moves it by 0.3"
    assert re.search(r"The last val/psnr was (not clearly )?moved by lr", told)


def test_the_page_asks_for_nothing_and_holds_everything(runs):
    say("runs/vqvae/a_seed1", "codebook_collapse", 3100, "6.0% of 64 codes used", "lower --model.lr, set --a.b=[1,2]")
    text = html()
    page = Page(text)
    assert all(link.startswith("data:") for link in page.links)
    assert not re.search(r"url\(|@import|https?://(?!www\.w3\.org/2000/svg)|fetch\(|XMLHttp", text)
    assert text.count("data:image/png;base64,") == 6, "the last picture of each run"
    assert text.count("<svg") == 4
    shown = "".join(page.text)
    assert "codebook collapse" in shown
    assert "at step 3,100: 6.0% of 64 codes used" in shown
    assert "<code>--model.lr</code>, set <code>--a.b=[1,2]</code>" in text
    assert "finished; codebook collapse at 3,100" in shown
    assert "data.batch_size:" in shown, "what all have in common"
    assert [p.name for p in Path("out").iterdir()] == ["report.html"]


def test_damaged_runs_are_listed_and_the_others_told(runs, capsys):
    folder = Path("runs/vqvae")
    (folder / "a_seed0/config.yaml").unlink()
    (folder / "a_seed1/config.yaml").write_text("model: {class_path: [")
    (folder / "a_seed2/metrics.csv").unlink()
    metrics = folder / "b_seed0/metrics.csv"
    metrics.write_bytes(metrics.read_bytes()[:-9])
    (folder / "b_seed1/samples/step_000060.png").unlink()
    (folder / "b_seed1/samples/step_000060.png").mkdir()
    (folder / "b_seed2/finished.json").unlink()
    (folder / "b_seed2/failed.json").write_text('{"error": "CUDA <out> of memory"}')
    text = html()
    told = capsys.readouterr().out
    for line in (
        "a_seed0: no config.yaml",
        "a_seed1: config.yaml is damaged",
        "a_seed2: no metrics.csv",
        "b_seed0: 1 line of metrics.csv cannot be read",
    ):
        assert f"runs/vqvae/{line}" in told
        assert line.split(": ")[1] in text
    assert "CUDA &lt;out&gt; of memory" in text
    assert "step_000060.png cannot be read" in text
    table = Page(text).tables[0]
    assert len(table) == 7
    assert "6 runs of VQVAE" in told, "one section, though two do not say what they are"
    assert "5 finished, 1 failed" in told
    for form in ("md", "html"):
        report(["runs", "-o", "out", "--format", form])


def test_a_folder_of_nothing_but_damage():
    for name in ("x", "y"):
        Path(f"runs/{name}").mkdir(parents=True)
        Path(f"runs/{name}/metrics.csv").write_bytes(b"\xff\x00,\n\n")
    assert "2 runs of" in "".join(Page(html()).text)


def test_single_pairs_are_not_called_evidence_and_what_has_none_is_named(capsys):
    for name, lr, codes in (("a", 0.1, 64), ("b", 0.2, 64), ("c", 0.3, 512)):
        make(f"runs/vqvae/{name}", model__lr=lr, model__quantizer__num_embeddings=codes)
    html()
    told = capsys.readouterr().out
    assert "In single pairs of runs, perhaps by chance, the best val/loss moved with lr (0.1 to 0.2)" in told
    assert "Nothing can be told of num_embeddings: no two runs differ in one of these alone." in told


def test_settings_whose_effect_is_unknown_are_counted_once(capsys):
    for name, lr, size, more in (("a", 0.1, 32, 0), ("b", 0.2, 8, 0), ("c", 0.3, 32, 10)):
        extra = {f"model__extra{i}": i + more for i in range(5)}
        make(f"runs/vqvae/{name}", model__lr=lr, data__batch_size=size, **extra)
    html()
    assert "Nothing can be told of lr, extra0, extra1 and 4 more: no two" in capsys.readouterr().out


def test_two_unfinished_runs_of_one_seed_are_no_repeats(capsys):
    for name, steps in (("first", 40), ("second", 20)):
        make(f"runs/vqvae/{name}", steps=steps, trainer__max_steps=100)
        Path(f"runs/vqvae/{name}/finished.json").unlink()
    assert "over seeds" not in html()
    assert "with repeats" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("state", "status"),
    [("finished", "finished"), ("started", "unfinished"), ("running", "running")],
)
def test_a_run_without_a_line_yet_is_no_damage(state, status):
    folder = Path("runs/vqvae/short")
    make("runs/vqvae/long")
    make(folder, steps=2, every=50)
    assert not (folder / "metrics.csv").exists()
    if state != "finished":
        (folder / "finished.json").unlink()
    with row_lock(folder) if status == "running" else nullcontext():
        text = html()
    assert "Damaged or failed" not in text
    assert status in text


def test_where_many_settings_differ_the_figures_come_first():
    for place, name in enumerate("ab"):
        more = {f"model__extra{i}": 10 * place + i for i in range(5)}
        make(f"runs/vqvae/{name}", **more)
    names = [cell[0] for cell in Page(html()).tables[0][0]]
    assert names[:5] == ["run", "best val/loss", "at step", "last val/loss", "verdict"]
    assert names[5:10] == [f"extra{i}" for i in range(5)]


def test_each_model_has_its_section_and_a_single_run_its_figures(capsys):
    make("runs/vqvae/first")
    make("runs/sgan/first", model="SGAN", monitor=("val/psnr", "max"))
    text = html()
    assert re.findall(r"<h2>(\w+)</h2>", text) == ["SGAN", "VQVAE"]
    told = capsys.readouterr().out
    assert re.search(r"1 run of SGAN: finished\. Best val/psnr: \S+ at step \d+\. Last: val/psnr", told)
    assert 'class="key"' not in text, "a legend of one name says nothing"


def test_names_cannot_break_the_page():
    make("runs/vqvae/<script>alert(1)</script>&\"'")
    make("runs/vqvae/a|b`c*d_e_")
    assert "<script>alert" not in html()
    report(["runs", "-o", "out", "--format=md"])
    text = Path("out/report.md").read_text()
    assert "<script>" not in text
    rows = [line for line in text.splitlines() if line.startswith("|")]
    widths = {len(re.findall(r"(?<!\\)\|", line)) for line in rows[:4]}
    assert len(widths) == 1


def test_markdown_has_its_pictures_beside_it(runs):
    say("runs/vqvae/b_seed2", "loss_oscillation", 40)
    report(["runs", "-o", "out", "--format=md"])
    text = Path("out/report.md").read_text()
    linked = re.findall(r"!\[[^\n]*?\]\(([^)]*)\)", text)
    files = {str(path.relative_to("out")) for path in Path("out/report_files").iterdir()}
    assert set(linked) == files
    assert len(linked) == len(files) == 6 + 4
    assert (
        Path("out/report_files/a_seed0_step_000060.png").read_bytes()
        == Path("runs/vqvae/a_seed0/samples/step_000060.png").read_bytes()
    )
    assert "- **loss oscillation**: set --model.lr=1" in text
    assert re.search(r"\| a\\_seed0 \| 0\.001 \| 0 \|", text)


def test_a_run_that_was_tested_shows_it():
    make("runs/vqvae/first")
    Path("runs/vqvae/first/test.csv").write_text("step,time,test/psnr\n0,1.0,12.34567\n")
    page = Page(html())
    assert page.tables[-1][0][-1][0] == "test/psnr"
    assert page.tables[-1][1][-1][:2] == ["12.35", 12.34567]


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ([], "required: runs"),
        (["nowhere"], "nowhere is no folder"),
        (["bare"], "there is no run in bare"),
        (["runs", "--format=pdf"], "invalid choice: 'pdf'"),
        (["runs", "-o", "file"], "-o"),
    ],
)
def test_mistakes_get_one_line_and_status_2(args, words, capsys):
    make("runs/vqvae/first")
    Path("bare").mkdir()
    Path("file").touch()
    with pytest.raises(SystemExit) as stopped:
        main(["report", *args])
    assert stopped.value.code == 2
    (complaint,) = capsys.readouterr().err.splitlines()
    assert complaint.startswith("vqlab: error: ")
    assert words in complaint
    assert not Path("report").exists()


def test_report_and_the_look_at_a_sweep_start_without_torch(runs):
    Path("x.yaml").write_text("base: runs/vqvae/a_seed0/config.yaml\nrows: [{name: a}]")
    for args in (["report", "runs"], ["sweep", "x.yaml", "--dry-run"], ["sweep", "--help"], ["report", "--help"]):
        call = [sys.executable, "-X", "importtime", "-m", "vqlab", *args]
        done = subprocess.run(call, capture_output=True, text=True, env=dict(os.environ), timeout=120)
        assert done.returncode == 0, done.stderr
        loaded = {line.rpartition("|")[2].strip().split(".")[0] for line in done.stderr.splitlines()}
        assert "yaml" in loaded
        assert not loaded & {"torch", "lightning", "numpy", "matplotlib", "scipy", "optuna"}
