"""When a line of the log is due."""

import lightning


def is_log_step(trainer: lightning.Trainer, steps_done: int) -> bool:
    """Whether the log gets a line when ``steps_done`` optimizer steps are done."""
    return steps_done % trainer.log_every_n_steps == 0  # type: ignore[attr-defined]
