"""Read valid and damaged run folders."""

import json
import math
from pathlib import Path

import pytest
import torch

from tests.helpers.run_folders import add_event, last_and_best, make
from vqlab.experiments.report import spread
from vqlab.experiments.run_state import row_lock
from vqlab.experiments.runs import MetricsLog, Run, direction, find_runs, read_log, read_run
from vqlab.training.loggers.csv import CSVLog

RUN = Path("runs/vqvae/first")


@pytest.mark.parametrize("of_monitor", ["min", "max"])
def test_last_and_best_equal_the_log(of_monitor):
    lines = make(RUN, steps=200, monitor=("val/loss", of_monitor))
    run = read_run(RUN)
    for metric, mode in (("val/loss", of_monitor), ("val/psnr", "max"), ("train/loss", "min")):
        figure = run.figure(metric)
        found = (figure.last, figure.last_step, figure.best, figure.best_step)
        assert found == last_and_best(lines, metric, mode)
    assert run.figure("val/none") is None
    assert run.figure("train/samples_per_second").best is None, "no direction is known"
    assert run.value("val/loss") == run.figure("val/loss").best
    assert run.value("val/psnr") == run.figure("val/psnr").last
    assert (run.status, run.problems, run.log.steps) == ("finished", [], 200)
    assert run.samples_per_second == pytest.approx(100 + 100, abs=2)


@pytest.mark.parametrize(
    ("mode", "names"),
    [
        ("max", "val/psnr test/acc val/posterior_psnr val/rmse_gain val/npmi_doc test/recall_vgg"),
        ("min", "val/rec_loss val/rfid_vgg val/nll val/bits_per_token val/rmse val/l1 test/fd_vgg test/kd_vgg"),
        (None, "lr/autoencoder val/rmse_identity"),
    ],
)
def test_directions(mode, names):
    assert {direction(name) for name in names.split()} == {mode}


def test_peak_learning_rate_and_time_without_interruptions():
    make(RUN)
    assert read_run(RUN).peak_lr is None
    times = [100 + 5 * i for i in range(50)] + [90_000 + 5 * i for i in range(50)]
    lines = [f"{i},{t},{0.3 - abs(i - 7) / 100},5" for i, t in enumerate(times)]
    (RUN / "metrics.csv").write_text("\n".join(["step,time,lr/autoencoder,lr/discriminator", *lines, ""]))
    assert (read_run(RUN).peak_lr, read_run(RUN).seconds) == (0.3, 49 * 5 * 2)


def test_status():
    make(RUN)
    (RUN / "finished.json").unlink()
    assert read_run(RUN).status == "interrupted"
    (RUN / "failed.json").write_text(json.dumps({"error": "out of memory"}))
    run = read_run(RUN)
    assert (run.status, run.error) == ("failed", "out of memory")
    with row_lock(RUN):
        assert read_run(RUN).status == "running"


def test_first_event_of_each_name_and_count_of_damaged_lines():
    make(RUN)
    add_event(RUN, "codebook_collapse", 300)
    add_event(RUN, "loss_oscillation", 400, key="mend")  # the key of vqlab 0.1
    add_event(RUN, "codebook_collapse", 500)
    with (RUN / "health.jsonl").open("a") as log:
        log.write('{"event": "x"}\n\n[1]\n{"event": "codebook_coll')
    run = read_run(RUN)
    rest = ("so it is", "set --model.lr=1")
    assert run.events == {"codebook_collapse": (300, *rest), "loss_oscillation": (400, *rest)}
    assert run.problems == ["3 lines of health.jsonl cannot be read"]


def test_pictures_of_each_kind_are_sorted_by_step():
    make(RUN)
    for name in ("codes_000100.png", "codes_000020.png", "step_x.png", "note.png", "step_1000000.png"):
        (RUN / "samples" / name).touch()
    Path("secret").touch()
    (RUN / "samples" / "other_000001.png").symlink_to(Path("secret").absolute())
    found = {kind: [step for step, _ in pictures] for kind, pictures in read_run(RUN).pictures.items()}
    assert found == {"step": [20, 60, 1_000_000], "codes": [20, 100]}
    assert spread([(step, Path()) for step in range(10)]) == [(step, Path()) for step in (0, 3, 6, 9)]


def test_find_runs_below_folders_in_natural_order(monkeypatch):
    for name in ("k=64_lr=0.001", "k=512_lr=0.001", "k=64_lr=3e-4"):
        make(f"runs/vqvae/{name}", steps=4)
    for name in ("runs/vqvae/k=64_lr=0.001/wandb/run-1/files", "runs/.hidden"):
        Path(name).mkdir(parents=True)
        (Path(name) / "config.yaml").touch()
    Path("runs/empty").mkdir()
    names = [run.folder.name for run in find_runs([Path("runs"), Path("runs/vqvae/k=512_lr=0.001")])]
    assert names == ["k=64_lr=3e-4", "k=64_lr=0.001", "k=512_lr=0.001"]
    monkeypatch.chdir("runs/vqvae/k=64_lr=3e-4")
    assert [run.log.steps for run in find_runs([Path()])] == [4]


# metrics.csv

LOG = Path("folder/metrics.csv")


def write(lines=50):
    logger, expected = CSVLog("folder"), {}
    for step in range(0, lines * 5, 5):
        metrics = {"train/loss": torch.rand(()).item(), "epoch": 0}
        if step % 20 == 0:
            metrics["val/psnr"] = torch.randn(()).item()
        logger.log_metrics(metrics, step)
        for name in metrics.keys() - {"epoch"}:
            expected.setdefault(name, []).append((step + 1, metrics[name]))
    return expected


def test_values_of_metrics_csv_with_completed_steps():
    expected = write()
    log = read_log(LOG)
    assert log.series == expected
    assert (log.steps, log.damaged, len(log.times)) == (246, 0, 50)
    LOG.write_text(LOG.read_text()[:-3])  # as after a kill
    assert read_log(LOG).damaged == 1
    assert read_log(LOG).series["train/loss"] == expected["train/loss"][:-1]


@pytest.mark.parametrize(
    ("content", "damaged", "losses"),
    [
        (b"", 0, None),
        (b"step,loss", 1, None),
        (b"loss,acc\n1,2\n", 1, None),
        (b"step,loss\n0,1\nx,2\n1\n2,3,4\n3,\n4,a\n5,6\n", 4, [(1, 1.0), (6, 6.0)]),
        (b"step,loss\n0,nan\n1,inf\n2,1e-3\n", 0, [(1, math.nan), (2, math.inf), (3, 1e-3)]),
        (b'\xef\xbb\xbfstep,"loss"\r\n9,"0.5"\r\n', 0, [(10, 0.5)]),  # of a spreadsheet
    ],
)
def test_damaged_lines_are_counted(content, damaged, losses):
    LOG.parent.mkdir()
    LOG.write_bytes(content)
    log = read_log(LOG)
    assert (log.damaged, str(log.series.get("loss"))) == (damaged, str(losses))  # NaN is not equal to itself


def test_best_is_the_first_best_finite_value():
    values = torch.randn(40).tolist()
    values[3] = values[17] = min(values)
    series = [(0, math.nan), *enumerate(values), (41, -math.inf)]
    figure = Run(Path("x"), log=MetricsLog({"val/loss": series, "val/acc": [(1, math.nan)]})).figure
    assert (figure("val/loss").best, figure("val/loss").best_step) == (min(values), 3)
    assert figure("val/acc").best is None
