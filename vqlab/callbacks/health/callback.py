"""Say once, with evidence and a mend, when a training goes wrong."""

import json
import statistics
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor, nn

from vqlab.callbacks.health.history import Rule, RunHistory, Thresholds, remember
from vqlab.callbacks.health.training_rules import GRADIENT_RULES, LINE_RULES, LOSSES, PLAYERS
from vqlab.callbacks.health.validation_rules import GLYPHS, VALIDATION_RULES
from vqlab.errors import UserError
from vqlab.training.checkpoint_io import append
from vqlab.training.finite import NonFiniteError
from vqlab.training.learning_rate import training_steps
from vqlab.training.log_interval import is_log_step
from vqlab.training.manual import clip_options

CODES = ("codebook_usage", "perplexity")
CHAINS = ("accept_rate", "accept_rate_cached", "known_chains", "chain_age", "sigma")
OF_LINES = (*LOSSES, "g_loss", *CODES, *PLAYERS, *CHAINS)
TOPICS = ("topic_redundancy", "topic_diversity", "topic_usage")
OF_VALIDATIONS = ("diversity", "classes_drawn", *GLYPHS, *TOPICS, "mutual_information")
EVENTS = {"non_finite", *(rule.event for rule in (*LINE_RULES, *GRADIENT_RULES, *VALIDATION_RULES))}


class Health(lightning.Callback):
    """Watch a training; write verdicts to ``health.jsonl`` and print each kind once.

    | verdict | of | when |
    |---|---|---|
    | ``non_finite`` | any model | a loss is NaN or infinite; the run stops |
    | ``loss_oscillation`` | | over a third of the log the loss varies by 25 % about its trend |
    | ``loss_divergence`` | | the loss stays above twice its best |
    | ``plateau`` | without a game | nothing better for a third of the run, at a high rate |
    | ``exploding_gradient`` | | 100 times the median |
    | ``vanishing_gradient`` | | of a part, 1e-4 of its median |
    | ``learning_rate_too_high`` | | steps change weights by 10 %, where 0.1 % is the rule |
    | ``learning_rate_too_low`` | | no step changed them by a thousandth of the rule |
    | ``codebook_collapse`` | with codes | 20 % of the codes used, or a perplexity of 5 % of K |
    | ``codebook_slow_death`` | | usage falls at each validation, and will be there |
    | ``proposal_collapse`` | JSA | chains that are kept accept less than 0.1 % |
    | ``posterior_collapse`` | JSA, DiscreteVAE | codes tell 0.01 nats, or all are accepted |
    | ``discriminator_too_strong`` | with players | it is 99 % sure of all images |
    | ``discriminator_too_weak`` | | it is right about 55 % |
    | ``mode_collapse`` | SGAN | a quarter of the real images' diversity, or of the classes |
    | ``topic_collapse`` | GANTopicModel | topics share half of their words, or half of them are dead |
    | ``worse_than_copying`` | FontGAN | held-out glyphs are farther from the target than the source's |
    | ``blur``, ``content_lost`` | | twice the grey; a tenth fewer glyphs are nearest to their own target |

    The rules, in :mod:`vqlab.callbacks.verdicts`, say from where their thresholds are. What is judged by the log has to
    hold for a twentieth of the run's lines, 5 to 20 of them, unless the table says otherwise. A low generator loss is
    none of these and no merit: it is relative to a discriminator that moves. A model has advice of its own in
    ``health_hints``, by verdict. Also logs ``grad_norm/<part>`` for each part of the model.

    Args:
        min_usage: The codebook has collapsed if a smaller share of the codes is used ...
        min_perplexity: ... or the perplexity is a smaller share of K.
        grace_steps: Steps before a codebook, chains and a low learning rate are judged ...
        gan_grace_steps: ... and the players of a GAN, what they make, and posteriors: early generated images are all
            alike and easily caught.
        oscillation: A loss oscillates if, over the last third of what was logged, its standard deviation about a
            straight line is more than this share of its mean.
        explosion: A gradient explodes if its norm is this many times the median so far.
        certainty: A discriminator is too strong if it is surer than this of real and of generated images alike ...
        blindness: ... and too weak if it is right about a smaller share of both. Half is what a coin is right about.
        min_diversity: Modes have collapsed if generated images differ by less than this share of what real ones do, or
            if as few of the classes are drawn, at two validations in a row.
        stop: End the run at a verdict, at any or at those that are named. It ends as at its last step, with a
            validation and ``last.ckpt``. A run that is resumed from there goes on: no verdict is given twice.

    Raises:
        UserError: If a share lies outside [0, 1], or there is no verdict of such a name.
    """

    def __init__(
        self,
        min_usage: float = 0.2,
        min_perplexity: float = 0.05,
        grace_steps: int = 200,
        gan_grace_steps: int = 1000,
        oscillation: float = 0.25,
        explosion: float = 100.0,
        certainty: float = 0.99,
        blindness: float = 0.55,
        min_diversity: float = 0.25,
        stop: bool | list[str] = False,
    ) -> None:
        shares = {"min_usage": min_usage, "min_perplexity": min_perplexity, "certainty": certainty}
        for name, value in {**shares, "blindness": blindness, "min_diversity": min_diversity}.items():
            if not 0 <= value <= 1:
                raise UserError(f"{name} must lie in [0, 1], got {value}: set --health.{name}=0.5 or leave it out")
        self.stop: set[str] = (EVENTS if stop else set()) if isinstance(stop, bool) else set(stop)
        if unknown := self.stop - EVENTS:
            raise UserError(
                f"there is no verdict {', '.join(sorted(unknown))}: set --health.stop to true, or to some of "
                f"{', '.join(sorted(EVENTS))}"
            )
        self.limits = Thresholds(
            min_usage,
            min_perplexity,
            grace_steps,
            gan_grace_steps,
            oscillation,
            explosion,
            certainty,
            blindness,
            min_diversity,
        )
        self.course = RunHistory()
        self.said: set[str] = set()
        self.ending: list[str] = []  # verdicts for which this run is to end
        self.sizes: dict[str, float] = {}  # |w| of the largest weight of each part, when the training began
        self.before: dict[str, Tensor] = {}  # that weight before the step

    def on_train_start(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        """Look at the length of the run, and at what it is judged by."""
        self.ending, self.before = [], {}
        course, checkpoint = self.course, trainer.checkpoint_callback
        course.steps = training_steps(trainer)
        interval: int = trainer.log_every_n_steps  # type: ignore[attr-defined]
        course.lines_planned = course.steps / interval if interval else 0
        course.num_embeddings = getattr(getattr(pl_module, "quantizer", None), "num_embeddings", 0)
        course.num_classes = getattr(pl_module, "num_classes", 0)
        course.monitor = getattr(checkpoint, "monitor", None) or "val/loss"
        parts = {
            name: part for name, part in pl_module.named_children() if any(p.requires_grad for p in part.parameters())
        }
        self.sizes = {name: float(largest(part).norm()) for name, part in parts.items()} | self.sizes

    def on_before_optimizer_step(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, optimizer: Any
    ) -> None:
        """Log the gradient norm of each part, and judge it, with each line of the log."""
        if not is_log_step(trainer, trainer.global_step + 1):
            return
        parts = {name: part for name, part in pl_module.named_children() if has_grad(part)}
        norms = {f"grad_norm/{name}": grad_norm(part) for name, part in parts.items()}
        pl_module.log_dict(norms)
        total = torch.stack(list(norms.values())).norm() if norms else torch.zeros(())
        self.course.step = trainer.global_step
        self.course.add({name: float(norm) for name, norm in {**norms, "grad_norm": total}.items()})
        self.judge(trainer, GRADIENT_RULES)
        self.before |= {name: largest(part).clone() for name, part in parts.items()}

    def on_train_batch_end(self, trainer: lightning.Trainer, pl_module: Any, *args: Any) -> None:
        """SGANDiscriminator what the log says of the training, with each line of it."""
        if not is_log_step(trainer, trainer.global_step):
            return
        ignored = getattr(pl_module, "health_ignored", ())
        line = figures(trainer, "train/", [name for name in OF_LINES if name not in ignored])
        if rates := [group["lr"] for optimizer in trainer.optimizers for group in optimizer.param_groups]:
            line["rate"] = float(max(rates))
        changes = {name: float((largest(getattr(pl_module, name)) - old).norm()) for name, old in self.before.items()}
        if ratios := [change / max(self.sizes[name], 1e-12) for name, change in changes.items() if change > 0]:
            line["update_ratio"] = statistics.median_low(ratios)
        self.before = {}
        self.course.step = trainer.global_step
        self.course.add(line)
        self.judge(trainer, LINE_RULES)
        self.end_if_ill(trainer)

    def on_validation_end(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        """SGANDiscriminator what the validation says of the model."""
        if trainer.state.fn != "fit" or trainer.sanity_checking:
            return
        course, codes = self.course, getattr(pl_module, "code_metrics_prefix", "")
        found = figures(trainer, "val/", OF_VALIDATIONS) | figures(trainer, f"val/{codes}", CODES)
        if course.monitor in trainer.callback_metrics:
            sign = -1 if getattr(trainer.checkpoint_callback, "mode", "min") == "max" else 1
            found["monitor"] = sign * float(trainer.callback_metrics[course.monitor])
        course.step = trainer.global_step
        remember(course.validations, {**found, "step": float(course.step)})
        self.judge(trainer, VALIDATION_RULES)
        self.end_if_ill(trainer)

    def judge(self, trainer: lightning.Trainer, rules: Iterable[Rule]) -> None:
        """Say what ``rules`` find, those that have not spoken yet."""
        if not trainer.is_global_zero:
            return
        for rule in rules:
            if rule.event not in self.said and (evidence := rule.evidence(self.course, self.limits)) is not None:
                self.say(trainer, rule.event, evidence, rule.mend)

    def end_if_ill(self, trainer: lightning.Trainer) -> None:
        """Let all ranks end at this batch if the first has a reason to."""
        if self.stop and trainer.strategy.reduce_boolean_decision(bool(self.ending), all=False):
            trainer.should_stop = True

    def on_train_end(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        """Say why the run ended, if for a verdict, and how to go on."""
        if self.ending:
            why = ", ".join(event.replace("_", " ") for event in self.ending)
            good = last_checkpoint(trainer)
            go_on = f"to go on regardless, resume with --ckpt_path {good}" if good else "there is no checkpoint"
            rank_zero_info(f"health: stopped at step {trainer.global_step} because of {why}: {go_on}")

    def on_exception(self, trainer: lightning.Trainer, pl_module: Any, exception: BaseException) -> None:
        """Record a loss that is not finite, and name the last good checkpoint."""
        if isinstance(exception, NonFiniteError):
            last = last_checkpoint(trainer)
            good = f"resume with --ckpt_path {last}" if last else "there is no checkpoint yet"
            evidence = f"{', '.join(exception.terms)} not finite at batch {exception.batch_idx}"
            self.say(trainer, "non_finite", evidence, f"lower --model.lr; {good}", batch_idx=exception.batch_idx)

    def say(self, trainer: lightning.Trainer, event: str, evidence: str, mend: str, **more: Any) -> None:
        """Print and record ``event``, the first time that it happens."""
        if event in self.said or not trainer.is_global_zero:
            return
        self.said.add(event)
        if event in self.stop:
            self.ending.append(event)
        model = trainer.lightning_module
        mend = getattr(model, "health_hints", {}).get(event) or mend.replace(
            "{clip}", next(iter(clip_options(model)), "--trainer.gradient_clip_val")
        )
        step = trainer.global_step
        rank_zero_info(f"health: {event.replace('_', ' ')} at step {step}: {evidence}: {mend}")
        line = {"time": round(time.time(), 1), "step": step, "event": event, "evidence": evidence, "mend": mend, **more}
        append(Path(trainer.default_root_dir) / "health.jsonl", json.dumps(line) + "\n")

    def state_dict(self) -> dict[str, Any]:
        """What has been seen and said."""
        seen = asdict(self.course)
        return {
            "lines": seen["lines"],
            "validations": seen["validations"],
            "sizes": self.sizes,
            "said": sorted(self.said),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on without saying anything twice."""
        self.said, self.sizes = set(state_dict["said"]), dict(state_dict.get("sizes", {}))
        for name in ("lines", "validations"):  # a checkpoint of an earlier version has seen other things
            setattr(self.course, name, {key: list(values) for key, values in state_dict.get(name, {}).items()})


def figures(trainer: lightning.Trainer, prefix: str, names: Sequence[str]) -> dict[str, float]:
    """Return those of ``names`` that are logged under ``prefix``."""
    metrics = trainer.callback_metrics
    return {name: float(metrics[prefix + name]) for name in names if prefix + name in metrics}


def last_checkpoint(trainer: lightning.Trainer) -> Path | None:
    """Return the last checkpoint of the run, if there is one."""
    path = Path(trainer.default_root_dir) / "checkpoints" / "last.ckpt"
    return path if path.exists() else None


def largest(part: nn.Module) -> Tensor:
    """Return the largest weight of ``part`` that learns, detached."""
    return max((p for p in part.parameters() if p.requires_grad), key=torch.numel).detach()


def has_grad(part: nn.Module) -> bool:
    """Whether any parameter of ``part`` has a gradient."""
    return any(p.grad is not None for p in part.parameters())


def grad_norm(part: nn.Module) -> Tensor:
    """Return the L2 norm of all gradients of ``part``, a scalar tensor."""
    grads = [p.grad for p in part.parameters() if p.grad is not None]
    return torch.nn.utils.get_total_norm(grads)
