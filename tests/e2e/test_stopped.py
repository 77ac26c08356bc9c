"""A training that is stopped by a signal or an error is saved, says how to go on, and ends as if nothing had been."""

import os
import signal
from pathlib import Path

import pytest

import vqlab
from tests.e2e.systems import OFTEN, SYSTEMS, prepare
from tests.e2e.tiny import FIT, STOPS, TRAINER, assert_same_runs, fails, fit, reached
from tests.helpers import stops
from tests.helpers.forks import on_two_ranks
from vqlab.cli.main import main
from vqlab.data.resumable import ResumableLoader

INT, TERM = signal.SIGINT, signal.SIGTERM
SLOW = pytest.mark.slow
END = "--trainer.max_steps=14"
VQGAN = [
    "--trainer.limit_train_batches=12",  # an epoch
    *SYSTEMS["VQGAN"],
    *TRAINER,
    *OFTEN,
    "--trainer.limit_val_batches=3",
    "--ema.decay=0.9",
    "--plateau.patience=1",
]
LAST = Path("runs/vqgan/stopped/checkpoints/last.ckpt")
CONFIG = LAST.parents[1] / "config.yaml"


def stop(hook, step, what, *options):
    """Train with what happens at the hook; return the exit status, or the error."""
    stops.Stop.plan = (hook, step, what)
    try:
        main(["fit", *options, "--name=stopped", f"--trainer.callbacks+={STOPS}.Stop"])
    except SystemExit as stopped:
        return stopped.code
    except RuntimeError as error:
        return error
    return 0


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The folder of the run that nothing happens to."""
    runs = tmp_path_factory.mktemp("runs")
    main(["fit", *VQGAN, END, "--name=whole", f"--runs={runs}"])
    return runs / "vqgan" / "whole"


@pytest.mark.parametrize(
    ("hook", "step", "number", "saved"),
    [
        ("on_before_optimizer_step", 6, INT, 7),  # between the steps of generator and discriminator
        ("on_validation_batch_end", 10, TERM, 10),
        pytest.param("on_before_optimizer_step", 9, TERM, 10, marks=SLOW),  # a validation follows
        pytest.param("on_validation_end", 10, INT, 10, marks=SLOW),
        pytest.param("on_train_batch_start", 11, INT, 12, marks=SLOW),  # the last one of an epoch
        pytest.param("on_save_checkpoint", 8, INT, 9, marks=SLOW),
    ],
)
def test_a_signal_stops_it_between_two_batches(whole, caplog, hook, step, number, saved):
    caplog.set_level("INFO")
    assert stop(hook, step, number, *VQGAN, END) == 128 + number
    assert f"stopped at step {saved}: resume with vqlab fit --config {CONFIG} --ckpt_path {LAST}" in caplog.messages
    assert reached(LAST) == saved
    main(["fit", f"--config={CONFIG}", f"--ckpt_path={LAST}", "--trainer.callbacks=null"])
    assert_same_runs(LAST.parents[1], whole)
    assert signal.getsignal(TERM) == signal.SIG_DFL


def test_the_way_to_resume_is_right_beside_a_checkpoint_callback_of_the_users(caplog):
    caplog.set_level("INFO")
    own = "--trainer.callbacks+=lightning.pytorch.callbacks.ModelCheckpoint"
    assert stop("on_train_batch_start", 3, INT, *FIT[1:], "--trainer.max_steps=9", own) == 130
    folder = "runs/vqvae/stopped"
    assert f"vqlab fit --config {folder}/config.yaml --ckpt_path {folder}/checkpoints/last.ckpt" in caplog.text


@pytest.mark.parametrize(
    ("hook", "step", "saved"),
    [
        ("on_validation_batch_end", 10, 10),
        pytest.param("on_validation_epoch_end", 10, 10, marks=SLOW),
        pytest.param("on_train_epoch_end", 12, 12, marks=SLOW),
        pytest.param("on_train_epoch_start", 12, 12, marks=SLOW),
        ("on_train_batch_end", 7, 5),  # this batch is not complete: some callbacks have seen it, others have not
        pytest.param("on_before_optimizer_step", 6, 5, marks=SLOW),
    ],
)
def test_an_error_between_two_batches_loses_none(whole, caplog, hook, step, saved):
    caplog.set_level("INFO")
    error = RuntimeError("a disk is gone")
    assert stop(hook, step, error, *VQGAN, END) is error
    assert reached(LAST) == saved
    assert f"with vqlab fit --config {CONFIG} --ckpt_path {LAST}" in caplog.text
    main(["fit", f"--config={CONFIG}", f"--ckpt_path={LAST}", "--trainer.callbacks=null"])
    assert_same_runs(LAST.parents[1], whole)


# In mid-epoch, behind a validation, and the first of an epoch.
@pytest.mark.parametrize("batch", [7, pytest.param(11, marks=SLOW), pytest.param(13, marks=SLOW)])
def test_an_error_of_data_loading_loses_no_batch(whole, monkeypatch, batch):
    read, count = ResumableLoader.__iter__, []

    def fails_once(self):
        for item in read(self):
            count.append(1)
            if len(count) == batch:
                raise RuntimeError("a disk is gone")
            yield item

    monkeypatch.setattr(ResumableLoader, "__iter__", fails_once)
    with pytest.raises(RuntimeError, match="a disk is gone"):
        main(["fit", *VQGAN, END, "--name=stopped"])
    assert reached(LAST) == batch - 1
    main(["fit", f"--ckpt_path={LAST}"])
    assert_same_runs(LAST.parents[1], whole)


@pytest.mark.parametrize(
    ("options", "saved"),
    [
        ([*VQGAN, "--model.accumulate=3", "--model.adversarial.alternate=false"], 9),
        ([*SYSTEMS["VQVAE"], *TRAINER, "--trainer.accumulate_grad_batches=3", "--trainer.val_check_interval=11"], 7),
    ],
)
def test_gradients_that_wait_for_further_batches_are_waited_for(options, saved):
    options = [*options, "--trainer.max_steps=14"]
    assert stop("on_train_batch_start", 6, INT, *options) == 130
    (last,) = Path("runs").glob("*/stopped/checkpoints/last.ckpt")
    assert reached(last) == saved
    main(["fit", f"--config={last.parents[1]}/config.yaml", f"--ckpt_path={last}", "--trainer.callbacks=null"])
    main(["fit", *options, "--name=whole"])
    assert_same_runs(last.parents[1], last.parents[2] / "whole")


@SLOW
@pytest.mark.parametrize("system", SYSTEMS)
@pytest.mark.parametrize("hook", ["on_before_optimizer_step", "on_validation_batch_end"])
def test_every_system_can_be_stopped(system, hook):
    prepare(system)
    options = [*SYSTEMS[system], *TRAINER, *OFTEN, "--trainer.max_steps=14", "--trainer.limit_val_batches=2"]
    assert stop(hook, 5, TERM, *options) == 143
    folder = Path("runs") / system.lower()
    last = f"--ckpt_path={folder}/stopped/checkpoints/last.ckpt"
    main(["fit", f"--config={folder}/stopped/config.yaml", last, "--trainer.callbacks=null"])
    main(["fit", *options, "--name=whole"])
    assert_same_runs(folder / "stopped", folder / "whole")


@pytest.mark.parametrize("hook", ["setup", "on_fit_start", "on_sanity_check_start", "on_train_start"])
def test_a_signal_before_the_first_step_leaves_nothing(hook, monkeypatch):
    stops.Stop.plan = ("on_exception", 0, 0)
    monkeypatch.setattr(stops.Stop, hook, lambda *args, **kwargs: os.kill(os.getpid(), TERM), raising=False)
    with pytest.raises(SystemExit) as stopped:
        fit("--name=early", "--trainer.max_steps=4", f"--trainer.callbacks+={STOPS}.Stop")
    assert stopped.value.code == 143
    assert not Path("runs").exists()


def test_a_signal_in_the_last_batch_lets_the_run_finish():
    assert stop("on_train_batch_start", 3, INT, *FIT[1:], "--trainer.max_steps=4") == 130
    assert {path.name for path in Path("runs/vqvae/stopped").iterdir()} >= {"finished.json", "samples", "checkpoints"}


@pytest.mark.parametrize("call", ["validate", "test", "predict"])
def test_ctrl_c_ends_an_evaluation_without_a_word(call, capsys, monkeypatch):
    fit("--name=run", "--trainer.max_steps=2")
    monkeypatch.setattr(vqlab.VQVAE, f"{call}_step".replace("validate", "validation"), interrupt)
    capsys.readouterr()
    with pytest.raises(SystemExit) as stopped:
        main([call, "--ckpt_path=runs/vqvae/run/checkpoints/last.ckpt"])
    assert stopped.value.code == 130
    assert "Traceback" not in capsys.readouterr().err


def interrupt(*args):
    os.kill(os.getpid(), INT)


def test_a_run_without_a_checkpoint_is_begun_anew(capsys):
    error = RuntimeError("died early")
    assert stop("on_before_optimizer_step", 1, error, *FIT[1:], "--trainer.max_steps=4") is error
    call = [*FIT, "--name=stopped", "--trainer.max_steps=4"]
    complaint = fails(capsys, call)
    assert "no last.ckpt" in complaint
    assert "--ckpt_path" not in complaint
    main([*call, "--overwrite"])
    assert reached(Path("runs/vqvae/stopped/checkpoints/last.ckpt")) == 4
    last = "--ckpt_path=runs/vqvae/stopped/checkpoints/last.ckpt"
    assert "leave out one of them" in fails(capsys, [*call, "--overwrite", last])


@pytest.mark.parametrize("number", [INT, pytest.param(TERM, marks=SLOW)])
def test_two_processes_stop_after_the_same_batch(number):
    stops.Stop.plan = ("on_train_batch_start", 3, number)
    options = [*FIT, "--trainer.max_steps=100000", "--name=two", "--data.batch_size=8"]
    (status, output), (_, other) = on_two_ranks(*options, f"--trainer.callbacks+={STOPS}.StopOnRank1")
    assert status == 128 + number, output
    last = Path("runs/vqvae/two/checkpoints/last.ckpt")
    assert f"stopped at step {reached(last)}: resume with" in output
    assert reached(last) >= 3
    assert "Traceback" not in output + other
