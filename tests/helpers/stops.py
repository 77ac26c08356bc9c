"""Callbacks by which something happens to a training at a hook: a signal, an error, or a look at each rank."""

import os

import lightning
import torch

from vqlab.cli.main import main


class Stop(lightning.Callback):
    """Send a signal to this process, or raise an error, at the first call of a hook from a step on.

    ``Stop.plan`` is (hook, number of steps done, signal or error).
    """

    plan = None

    def __init__(self):
        hook, step, what = self.plan
        self.armed = True

        def act(trainer, *args, **kwargs):
            if self.armed and not trainer.sanity_checking and trainer.global_step >= step:
                self.armed = False
                if not isinstance(what, int):
                    raise what
                os.kill(os.getpid(), what)

        setattr(self, hook, act)


class StopOnRank1(Stop):
    """The same, on rank 1 alone."""

    def setup(self, trainer, pl_module, stage):
        self.armed = trainer.global_rank == 1


class SaveAll(lightning.Callback):
    """Write every rank's own weights, which a checkpoint of rank 0 would hide."""

    def on_train_end(self, trainer, pl_module):
        torch.save(pl_module.state_dict(), f"rank_{trainer.global_rank}.pt")


def fit_and_stop(hook, step, what, *arguments):
    """Train a run ``stopped`` with what happens at the hook; return the exit status, or the error."""
    Stop.plan = (hook, step, what)
    try:
        main([*arguments, "--name=stopped", f"--trainer.callbacks+={__name__}.Stop"])
    except SystemExit as stopped:
        return stopped.code
    except RuntimeError as error:
        return error
    return 0
