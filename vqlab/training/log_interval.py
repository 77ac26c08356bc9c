"""When a line of the log is due."""

import lightning


def is_log_step(trainer: lightning.Trainer, steps_done: int) -> bool:
    """Whether the log gets a line with this batch, ``steps_done`` optimizer steps being done at its end.

    A batch that is accumulated and does not step has no line of its own; an interval of 0 asks for no log at all.
    """
    interval: int = trainer.log_every_n_steps  # type: ignore[attr-defined]
    due = interval > 0 and steps_done % interval == 0
    return due and not trainer.fit_loop._should_accumulate()
