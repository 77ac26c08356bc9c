"""``vqlab report --docs``: facts, answers and rows of the results page equal the logs of the runs."""

import json
import statistics
from pathlib import Path

import pytest
import yaml

from tests.e2e.tiny import fails
from tests.helpers.run_folders import last_and_best, make
from vqlab.cli.report import report

QUESTIONS = [
    {"ask": "Which rate?", "rows": ["a", "b"]},
    {"ask": "Which PSNR?", "rows": ["a", "b"], "metric": "val/psnr"},
    {"ask": "And the third?", "rows": ["b", "c"], "metric": "val/psnr"},
    {"ask": "Is a lower loss better?", "metric": "val/loss", "against": "val/psnr"},
    {"ask": "Alone?", "rows": ["c"]},
    {"ask": "By the beginning of a name?", "rows": ["a", "b"], "metric": "val/ps"},
]


def write_file(path="log.yaml", **content):
    Path("base.yaml").write_text(yaml.safe_dump({"model": "VQVAE"}))
    rows = [{"name": name, "model.lr": lr} for name, lr in (("a", 0.1), ("b", 0.2), ("c", 0.3))]
    content = {"base": "base.yaml", "rows": rows, "seeds": [0, 1], **content}
    Path(path).write_text("# A log of *rates*.\n#   vqlab sweep log.yaml\n" + yaml.safe_dump(content, sort_keys=False))


def make_rows(names="ab", seeds=(0, 1), **facts):
    """Write a run for each row and seed; return their lines by row."""
    found = {}
    for place, name in enumerate(names):
        for seed in seeds:
            folder = f"runs/vqvae/{name}_seed{seed}"
            found.setdefault(name, []).append(make(folder, shift=place, seed_everything=seed, data__seed=seed))
            facts = {"experiment": "log", "place": place, "command": "vqlab sweep log.yaml --budget 2h", **facts}
            Path(folder, "row.json").write_text(json.dumps(facts))
    return found


def page():
    report(["runs", "--docs", "log.yaml", "-o", "docs"])
    return Path("docs/log.md").read_text()


def section(text, heading):
    return text.partition(f"## {heading}\n")[2].partition("\n## ")[0].strip()


def means(lines, metric, mode):
    values = {name: [last_and_best(run, metric, mode) for run in runs] for name, runs in lines.items()}
    of = 2 if metric == "val/loss" else 0  # best of the monitored metric, last of any other
    return {name: statistics.fmean(value[of] for value in found) for name, found in values.items()}


def test_answers_compare_the_means_over_seeds():
    write_file(questions=QUESTIONS)
    lines = make_rows()
    text = page()
    losses, psnrs = means(lines, "val/loss", "min"), means(lines, "val/psnr", "max")
    answer = section(text, "Which rate?")
    assert answer.startswith(f"a is best. Best val/loss: a {losses['a']:.3g}, b {losses['b']:.3g}. The lead over b, ")
    first, second = sorted(psnrs, key=psnrs.__getitem__, reverse=True)
    start = f"{first} is best. Last val/psnr: {first} {psnrs[first]:.3g}, {second} {psnrs[second]:.3g}."
    assert section(text, "Which PSNR?").startswith(start)
    assert section(text, "By the beginning of a name?") == section(text, "Which PSNR?")
    assert section(text, "And the third?") == f"Not run: c. last val/psnr: b {psnrs['b']:.3g}."
    assert section(text, "Alone?") == "Not run: c."


def test_lead_is_compared_with_the_deviation_over_seeds():
    write_file(questions=QUESTIONS)
    lines = make_rows()
    bests = {name: [last_and_best(run, "val/loss", "min")[2] for run in runs] for name, runs in lines.items()}
    lead = abs(statistics.fmean(bests["a"]) - statistics.fmean(bests["b"]))
    spread = max(map(statistics.stdev, bests.values()))
    size = "more" if lead > spread else "not more"
    end = f"The lead over b, {lead:.2g}, is {size} than the standard deviation over seeds, {spread:.2g}."
    assert section(page(), "Which rate?").endswith(end)


def test_lead_of_one_seed_is_called_so():
    write_file(questions=QUESTIONS)
    make_rows(seeds=(0,))
    assert section(page(), "Which rate?").endswith(", of one seed.")


def test_relation_of_two_metrics_is_a_rank_correlation():
    write_file(questions=QUESTIONS)
    lines = make_rows("abc")
    runs = [run for found in lines.values() for run in found]
    losses = [last_and_best(run, "val/loss", "min")[2] for run in runs]
    psnrs = [last_and_best(run, "val/psnr", "max")[0] for run in runs]
    ranks = [[sorted(values).index(value) for value in values] for values in (losses, psnrs)]
    rank = statistics.correlation(*ranks)
    answer = section(page(), "Is a lower loss better?")
    assert answer.endswith(f"over 6 runs the rank correlation of val/loss and val/psnr is {rank:+.2f}.")


def test_facts_name_command_budget_seeds_and_comment():
    write_file()
    make_rows(scale=0.25, budget="2h")
    text = page()
    assert "A log of \\*rates\\*.\n" in text
    assert "| command | `vqlab sweep log.yaml --budget 2h` |" in text
    assert "| budget | 2h: all numbers of steps are 0.25 of those of the file |" in text
    assert "| runs | 4 of 6 finished, 2 seeds, " in text
    assert "| machine | not recorded |" in text


def test_rows_have_means_in_the_order_of_the_file():
    write_file()
    lines = make_rows("abc")
    rows = [line.split(" | ") for line in section(page(), "Rows").splitlines() if line.startswith("| ")]
    assert [row[0] for row in rows] == ["| row", "| ---", "| a", "| b", "| c"]
    column = rows[0].index("best val/loss")
    for name, row in zip("abc", rows[2:], strict=True):
        assert row[column].strip("*").startswith(f"{means(lines, 'val/loss', 'min')[name]:.4g}")
    assert rows[2][column].startswith("**"), "the best is marked"


def test_report_names_the_scale_of_each_row():
    make_rows(scale=0.25, budget="2h")
    report(["runs", "-o", "out"])
    assert Path("out/report.html").read_text().count("0.25 for 2h") == 4


def test_page_without_runs_of_the_file_is_refused(capsys):
    make("runs/vqvae/other")
    write_file()
    error = fails(capsys, ["report", "runs", "--docs=log.yaml"])
    assert error == "vqlab: error: no row of log.yaml is in these folders: vqlab sweep log.yaml runs them"
    assert not Path("report").exists()


@pytest.mark.parametrize(
    ("questions", "line"),
    [
        ([{"ask": "Which?", "rows": ["d"]}], "questions of log.yaml name a row 'd': "),
        ([{"rows": ["a"]}], "questions of log.yaml must be a list such as"),
        ("Which?", "questions of log.yaml must be a list such as"),
    ],
)
def test_wrong_questions_are_one_line(questions, line, capsys):
    write_file(questions=questions)
    assert line in fails(capsys, ["sweep", "log.yaml"])
