"""Something that happens to a training at a hook: a signal, or an error."""

import os

import lightning


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
