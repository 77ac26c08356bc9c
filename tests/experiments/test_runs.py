"""Run folders, whole and damaged."""

import json
import random
from pathlib import Path

import pytest

from tests.helpers.run_folders import last_and_best, make, say
from vqlab.errors import UserError
from vqlab.experiments.row_lock import row_lock
from vqlab.experiments.runs import direction, find_runs, read_run
from vqlab.training.learning_rate import equivalent_lr

RUN = Path("runs/vqvae/first")


def test_figures_are_those_of_the_log():
    lines = make(RUN, steps=200)
    run = read_run(RUN)
    for metric, mode in (("val/loss", "min"), ("val/psnr", "max"), ("train/loss", "min")):
        figure = run.figure(metric)
        found = (figure.last, figure.last_step, figure.best, figure.best_step)
        assert found == last_and_best(lines, metric, mode)
    assert run.figure("val/none") is None
    assert run.figure("train/samples_per_second").best is None, "whether more is better is not for us to say"
    assert run.value("val/loss") == run.figure("val/loss").best
    assert run.value("val/psnr") == run.figure("val/psnr").last
    assert (run.status, run.problems, run.log.steps) == ("finished", [], 200)


def test_the_config_says_which_end_of_the_monitored_metric_is_best():
    lines = make(RUN, monitor=("val/loss", "max"))
    figure = read_run(RUN).figure("val/loss")
    assert (figure.best, figure.best_step) == last_and_best(lines, "val/loss", "max")[2:]


@pytest.mark.parametrize(
    ("name", "mode"),
    [("val/psnr", "max"), ("test/acc", "max"), ("val/posterior_psnr", "max"), ("val/rec_loss", "min"),
     ("val/rfid_vgg", "min"), ("val/nll", "min"), ("val/bits_per_token", "min"), ("lr/autoencoder", None),
     ("val/rmse_gain", "max"), ("val/rmse", "min"), ("val/l1", "min"),
     ("val/rmse_identity", None), ("val/npmi_doc", "max")],
)  # fmt: skip
def test_directions(name, mode):
    assert direction(name) == mode


@pytest.mark.parametrize("given", [{"lr": 3e-4}, {"lr": None, "base_lr": 4.5e-6}])
def test_the_equivalent_rate_is_that_of_the_training(given):
    draw = random.Random(0)
    batch, devices, nodes, accumulate = (draw.randint(1, 9) for _ in range(4))
    settings = {f"model__{name}": value for name, value in given.items()}
    make(RUN, data__batch_size=batch, trainer__devices=devices, trainer__num_nodes=nodes,
         trainer__accumulate_grad_batches=accumulate, **settings)  # fmt: skip
    expected = equivalent_lr(given["lr"], given.get("base_lr"), 0.0, batch, devices, nodes, accumulate)
    assert read_run(RUN).equivalent_lr == pytest.approx(expected)


def test_the_equivalent_rate_of_unknown_devices_is_the_largest_in_the_log():
    make(RUN, model__lr=None, model__base_lr=1e-5, trainer__devices="auto")
    assert read_run(RUN).equivalent_lr is None
    (RUN / "metrics.csv").write_text(
        "step,time,lr/autoencoder,lr/discriminator\n0,1.0,0.1,5\n1,2.0,0.3,5\n2,3.0,0.2,5\n"
    )
    assert read_run(RUN).equivalent_lr == 0.3


def test_time_leaves_out_the_pause_before_a_run_was_resumed():
    RUN.mkdir(parents=True)
    times = [100 + 5 * i for i in range(50)] + [90_000 + 5 * i for i in range(50)]
    (RUN / "metrics.csv").write_text("step,time\n" + "".join(f"{i},{t}\n" for i, t in enumerate(times)))
    assert read_run(RUN).seconds == 49 * 5 * 2
    make("runs/vqvae/other")
    run = read_run(Path("runs/vqvae/other"))
    assert run.samples_per_second == pytest.approx(100 + 30, abs=2)


def test_status():
    make(RUN)
    (RUN / "finished.json").unlink()
    assert read_run(RUN).status == "unfinished"
    (RUN / "failed.json").write_text(json.dumps({"error": "out of memory"}))
    run = read_run(RUN)
    assert (run.status, run.error) == ("failed", "out of memory")
    with row_lock(RUN):
        assert read_run(RUN).status == "running"


def test_verdicts_are_read_once_each_and_torn_lines_counted():
    make(RUN)
    say(RUN, "codebook_collapse", 300)
    say(RUN, "loss_oscillation", 400)
    say(RUN, "codebook_collapse", 500)
    with (RUN / "health.jsonl").open("a") as log:
        log.write('{"event": "x"}\n\n[1]\n{"event": "codebook_coll')
    run = read_run(RUN)
    assert [(v.event, v.step) for v in run.verdicts] == [("codebook_collapse", 300), ("loss_oscillation", 400)]
    assert run.problems == ["3 lines of health.jsonl cannot be read"]


def test_the_last_picture_of_each_kind():
    make(RUN)
    for name in ("codes_000100.png", "codes_000020.png", "step_x.png", "note.png", "step_1000000.png"):
        (RUN / "samples" / name).touch()
    found = {kind: (step, path.name) for kind, (step, path) in read_run(RUN).pictures.items()}
    assert found == {"step": (1_000_000, "step_1000000.png"), "codes": (100, "codes_000100.png")}


@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        (lambda: (RUN / "config.yaml").unlink(), "no config.yaml"),
        (lambda: (RUN / "config.yaml").write_text("a: [1"), "config.yaml is damaged"),
        (lambda: (RUN / "config.yaml").write_bytes(b"\xff\xfe\x00"), "config.yaml is damaged"),
        (lambda: (RUN / "metrics.csv").unlink(), "no metrics.csv"),
        (lambda: (RUN / "metrics.csv").write_bytes(b"\x00\x01\n\xff"), "lines of metrics.csv cannot be read"),
        (lambda: (RUN / "health.jsonl").write_bytes(b"\xff\xff"), "1 line of health.jsonl cannot be read"),
    ],
)
def test_damage_is_noted_and_the_rest_is_read(damage, problem):
    make(RUN)
    damage()
    (found,) = find_runs([Path("runs")])
    assert [note for note in found.problems if problem.removeprefix("lines ") in note]
    assert found.status == "finished"
    assert found.model.lower() == "vqvae"
    assert found.pictures


def test_runs_are_found_below_folders_once_and_in_natural_order(monkeypatch):
    for name in ("k=64_lr=0.001", "k=512_lr=0.001", "k=64_lr=3e-4"):
        make(f"runs/vqvae/{name}", steps=4)
    Path("runs/vqvae/k=64_lr=0.001/wandb/run-1/files").mkdir(parents=True)
    Path("runs/vqvae/k=64_lr=0.001/wandb/run-1/files/config.yaml").touch()
    Path("runs/.hidden").mkdir()
    Path("runs/.hidden/config.yaml").touch()
    Path("runs/empty").mkdir()
    names = [run.folder.name for run in find_runs([Path("runs"), Path("runs/vqvae/k=512_lr=0.001")])]
    assert names == ["k=64_lr=3e-4", "k=64_lr=0.001", "k=512_lr=0.001"]
    monkeypatch.chdir("runs/vqvae/k=64_lr=3e-4")
    assert [run.log.steps for run in find_runs([Path()])] == [4]


@pytest.mark.parametrize(("place", "words"), [("nowhere", "nowhere is no folder"), ("bare", "there is no run in bare")])
def test_no_runs(place, words):
    Path("bare").mkdir()
    with pytest.raises(UserError, match=words):
        find_runs([Path(place)])
