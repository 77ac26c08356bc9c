"""Callbacks by which something happens to a training at a hook: a signal, an error, or a look at each rank."""

import os
import signal

import lightning
import torch

from vqlab.errors import UserError


class Stop(lightning.Callback):
    """Send a signal to this process, or raise an error, at the first call of a hook from a step on.

    ``Stop.plan`` says which: (hook, step, number or error). Steps are those done when the hook is called.
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


class NaNOnRank1(lightning.Callback):
    """Spoil an image of rank 1."""

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if trainer.global_rank == 1 and batch_idx == 3:
            batch["image"][0] = float("nan")


class RefuseOnRank1(lightning.Callback):
    """Refuse a file on rank 1."""

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if trainer.global_rank == 1 and batch_idx == 3:
            raise UserError("a file is damaged")


class KillInValidation(lightning.Callback):
    """End the process without notice in the validation after step 20."""

    def on_validation_start(self, trainer, pl_module):
        if trainer.global_step == 20:
            os.kill(os.getpid(), signal.SIGKILL)
