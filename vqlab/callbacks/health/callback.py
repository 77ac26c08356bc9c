"""Report each problem of a training once, with evidence and a hint."""

import json
import statistics
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor, nn

from vqlab.atomic_io import append
from vqlab.callbacks.health.history import RunHistory, Thresholds
from vqlab.callbacks.health.rules import ACCURACY, GLYPHS, HINTS, LOSSES, RULES, When
from vqlab.errors import UserError
from vqlab.training.learning_rate import training_steps
from vqlab.training.lightning_fixes import is_log_step
from vqlab.training.steps import NonFiniteError, clip_option
from vqlab.validation import check_fields

CODES = ("codebook_usage", "perplexity")
CHAINS = ("accept_rate", "accept_rate_cached", "known_chains", "chain_age", "sigma")
TRAINING = (*LOSSES, "g_loss", *CODES, *ACCURACY, *CHAINS)
TOPICS = ("topic_redundancy", "topic_diversity", "topic_usage")
VALIDATION = ("diversity", "classes_drawn", *GLYPHS, *TOPICS, "mutual_information")
EVENTS = {"non_finite", *HINTS}


@dataclass(eq=False)
class Health(Thresholds, Callback):
    """Check the log and the validations for known problems; print each once and append it to ``health.jsonl``.

    :mod:`vqlab.callbacks.health.rules` lists the events, their thresholds and sources; ``non_finite``, a loss that is
    NaN or infinite, also stops the run. Also logs ``grad_norm/<part>`` for each part of the model.

    Args:
        min_usage: Smallest fraction of the codes in use.
        min_perplexity: Smallest perplexity, as a fraction of the number of codes.
        grace_steps: Steps before codebook, chains and a low learning rate are checked.
        gan_grace_steps: Steps before discriminators, generated data and posteriors are checked.
        oscillation: Largest standard deviation of the loss about its trend over the last third, relative to its mean.
        explosion: Largest gradient norm, relative to the median so far.
        certainty: Largest mean D(x) and 1 - D(G(z)) of a discriminator.
        blindness: Smallest accuracy of a discriminator; chance is 0.5.
        min_diversity: Smallest diversity of generated images relative to real ones, and smallest fraction of classes.
        stop: Stop the run, as at its last step, at any event or at the listed ones; a resumed run continues.

    Raises:
        UserError: If a fraction lies outside [0, 1], or ``stop`` lists an unknown event.
    """

    stop: bool | list[str] = False

    def __post_init__(self) -> None:
        check_fields(self)
        self.stops: set[str] = (EVENTS if self.stop else set()) if isinstance(self.stop, bool) else set(self.stop)
        if unknown := ", ".join(sorted(self.stops - EVENTS)):
            raise UserError(f"stop lists unknown events ({unknown}): choose from {', '.join(sorted(EVENTS))}")
        self.history = RunHistory()
        self.reported: set[str] = set()
        self.stop_events: list[str] = []  # events that stop this run
        self.sizes: dict[str, float] = {}  # initial L2 norm of the largest weight of each part
        self.before: dict[str, Tensor] = {}  # this weight before the step

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.stop_events, self.before = [], {}
        history, interval = self.history, trainer.log_every_n_steps  # type: ignore[attr-defined]
        history.steps = training_steps(trainer)
        history.lines_planned = history.steps / interval if interval else 0
        history.num_embeddings = getattr(getattr(pl_module, "quantizer", None), "num_embeddings", 0)
        history.num_classes = getattr(pl_module, "num_classes", 0)
        history.monitor = getattr(trainer.checkpoint_callback, "monitor", None) or "val/loss"
        for name, part in parts_of(pl_module).items():
            if any(p.requires_grad for p in part.parameters()):
                self.sizes.setdefault(name, float(largest_weight(part).norm()))

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Any) -> None:
        """Log and check the gradient norm of each part with each log line."""
        if not is_log_step(trainer, trainer.global_step + 1):
            return
        parts = parts_of(pl_module)
        grads = {name: [p.grad for p in part.parameters() if p.grad is not None] for name, part in parts.items()}
        norms = {name: nn.utils.get_total_norm(values) for name, values in grads.items() if values}
        pl_module.log_dict(logged_norms := {f"grad_norm/{name}": norm for name, norm in norms.items()})
        total = torch.stack(list(norms.values())).norm() if norms else torch.zeros(())
        self.history.step = trainer.global_step
        self.history.add({name: float(norm) for name, norm in {**logged_norms, "grad_norm": total}.items()})
        self.check(trainer, "gradient")
        self.before |= {name: largest_weight(parts[name]).clone() for name in norms}

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        if not is_log_step(trainer, trainer.global_step):
            return
        ignored = getattr(pl_module, "health_ignored", ())
        line = logged(trainer, "train/", [name for name in TRAINING if name not in ignored])
        if rates := [group["lr"] for optimizer in trainer.optimizers for group in optimizer.param_groups]:
            line["rate"] = float(max(rates))
        parts = parts_of(pl_module)
        changes = {name: float((largest_weight(parts[name]) - weight).norm()) for name, weight in self.before.items()}
        if ratios := [change / max(self.sizes[name], 1e-12) for name, change in changes.items() if change > 0]:
            line["update_ratio"] = statistics.median_low(ratios)
        self.before = {}
        self.history.step = trainer.global_step
        self.history.add(line)
        self.check(trainer, "line")
        self.stop_if_reported(trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.state.fn != "fit" or trainer.sanity_checking:
            return
        history, codes = self.history, getattr(pl_module, "code_metrics_prefix", "")
        found = logged(trainer, "val/", VALIDATION) | logged(trainer, f"val/{codes}", CODES)
        if history.monitor in trainer.callback_metrics:
            sign = -1 if getattr(trainer.checkpoint_callback, "mode", "min") == "max" else 1
            found["monitor"] = sign * float(trainer.callback_metrics[history.monitor])
        history.step = trainer.global_step
        history.add({**found, "step": float(history.step)}, "val")
        self.check(trainer, "validation")
        self.stop_if_reported(trainer)

    def check(self, trainer: Trainer, when: When) -> None:
        """Report the events of ``when``."""
        for rule in RULES[when]:
            for event, evidence in rule(self.history, self):
                self.report(trainer, event, evidence, HINTS[event])

    def stop_if_reported(self, trainer: Trainer) -> None:
        """Stop all ranks at this batch if the first reported an event of ``stop``."""
        if self.stops and trainer.strategy.reduce_boolean_decision(bool(self.stop_events), all=False):
            trainer.should_stop = True

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.stop_events:
            why = ", ".join(event.replace("_", " ") for event in self.stop_events)
            hint = f"to continue nevertheless, {resume_hint(trainer)}"
            rank_zero_info(f"health: stopped at step {trainer.global_step} because of {why}: {hint}")

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        if isinstance(exception, NonFiniteError):
            evidence = f"{', '.join(exception.terms)} not finite at batch {exception.batch_idx}"
            hint = f"lower --model.lr; {resume_hint(trainer)}"
            self.report(trainer, "non_finite", evidence, hint, batch_idx=exception.batch_idx)

    def report(self, trainer: Trainer, event: str, evidence: str, hint: str, **more: Any) -> None:
        """Print and record ``event``, unless it has been reported already."""
        if event in self.reported or not trainer.is_global_zero:
            return
        self.reported.add(event)
        if event in self.stops:
            self.stop_events.append(event)
        model, step = trainer.lightning_module, trainer.global_step
        hint = getattr(model, "health_hints", {}).get(event) or hint.replace("{clip}", f"--{clip_option(model)}")
        rank_zero_info(f"health: {event.replace('_', ' ')} at step {step}: {evidence}: {hint}")
        line = {"time": round(time.time(), 1), "step": step, "event": event, "evidence": evidence, "hint": hint, **more}
        append(Path(trainer.default_root_dir) / "health.jsonl", json.dumps(line) + "\n")

    def state_dict(self) -> dict[str, Any]:
        history = {"lines": self.history.lines, "validations": self.history.validations}
        return {**history, "sizes": self.sizes, "reported": sorted(self.reported)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.history.lines, self.history.validations = state_dict["lines"], state_dict["validations"]
        self.sizes = state_dict["sizes"]
        self.reported = set(state_dict["reported" if "reported" in state_dict else "said"])  # vqlab 0.1: said


def logged(trainer: Trainer, prefix: str, names: Iterable[str]) -> dict[str, float]:
    """Return the metrics ``names`` as far as they are logged under ``prefix``."""
    metrics = trainer.callback_metrics
    return {name: float(metrics[prefix + name]) for name in names if prefix + name in metrics}


def resume_hint(trainer: Trainer) -> str:
    """Return how to resume from the last checkpoint."""
    path = Path(trainer.default_root_dir) / "checkpoints" / "last.ckpt"
    return f"resume with --ckpt_path {path}" if path.exists() else "there is no checkpoint yet"


def parts_of(model: nn.Module) -> dict[str, nn.Module]:
    """Return the parts of a model by name, with the parts of ``latent`` and ``adversarial`` in place of these."""
    parts = dict(model.named_children())
    for group in ("latent", "adversarial"):
        if isinstance(part := parts.pop(group, None), nn.Module):
            parts |= dict(part.named_children())
    return parts


def largest_weight(part: nn.Module) -> Tensor:
    """Return the largest trainable weight of ``part``, detached."""
    return max((p for p in part.parameters() if p.requires_grad), key=torch.numel).detach()
