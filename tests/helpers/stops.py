"""Callbacks that send a signal, raise an error, or save the weights of each rank, at a hook of a training."""

import os

import lightning
import torch

from vqlab.cli.main import main


class Stop(lightning.Callback):
    """Send a signal to this process, or raise an error, at the first call of a hook from a step on."""

    plan = None  # (hook, steps done, signal or error)

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
    """Stop only rank 1."""

    def setup(self, trainer, pl_module, stage):
        self.armed = trainer.global_rank == 1


class SaveAll(lightning.Callback):
    """Save the weights of every rank; a checkpoint holds those of rank 0."""

    def on_train_end(self, trainer, pl_module):
        torch.save(pl_module.state_dict(), f"rank_{trainer.global_rank}.pt")


def fit_and_stop(hook, step, what, *arguments):
    """Train the run ``stopped`` until ``what`` happens at the hook; return the exit status, or the error."""
    Stop.plan = (hook, step, what)
    try:
        main([*arguments, "--name=stopped", f"--trainer.callbacks+={__name__}.Stop"])
    except SystemExit as stopped:
        return stopped.code
    except RuntimeError as error:
        return error
    return 0
