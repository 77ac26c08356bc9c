"""When a line of the log is due."""

from vqlab.training.lightning_fixes import is_log_step as is_log_step
