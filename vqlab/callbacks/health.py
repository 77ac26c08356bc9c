"""Say once, with evidence and a mend, when a training goes wrong."""

import json
import statistics
import time
from collections import deque
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.utilities import rank_zero_info
from torch import nn

from vqlab.errors import UserError
from vqlab.training.finite import NonFiniteError
from vqlab.training.log_interval import is_log_step
from vqlab.training.manual import clip_options
from vqlab.training.whole_files import append

HISTORY = 600  # logged values that the rules on loss and gradient look back at
ENOUGH = 20  # logged values that these rules need
PLAYERS = ("p_real", "p_fake", "reals_passed", "fakes_caught")
BLURRED = 2.0  # times the target's grey pixels
LOST = 0.1  # of the glyphs, fewer than of the source's are nearest to their own target
COLLAPSE_MEND = "set --model.quantizer.init=kmeans --model.quantizer.revive_after=16, or lower --model.lr"


class Health(lightning.Callback):
    """Watch loss, gradients and codebook; write verdicts to ``health.jsonl`` and print each kind once.

    Verdicts: ``non_finite`` (the run stops), ``codebook_collapse``, ``loss_oscillation``, ``exploding_gradient``; of
    models with a discriminator ``discriminator_too_strong``, ``discriminator_too_weak``, ``mode_collapse``; of glyphs
    ``worse_than_copying``, ``blur``, ``content_lost``. A low generator loss is none of these and no merit: it is
    relative to a discriminator that moves. A model has advice of its own in ``mends``, by verdict. Also logs
    ``grad_norm/<part>`` for each part of the model.

    Args:
        min_usage: The codebook has collapsed if a smaller share of the codes is used ...
        min_perplexity: ... or the perplexity is a smaller share of K.
        grace_steps: Steps before a codebook is judged ...
        gan_grace_steps: ... and the players of a GAN: early generated images are all alike and easily caught.
        oscillation: A loss oscillates if, over the last third of what was logged, its standard deviation about a
            straight line is more than this share of its mean.
        explosion: A gradient explodes if its norm is this many times the median so far.
        certainty: A discriminator is too strong if it is surer than this of real and of generated images alike ...
        blindness: ... and too weak if it is right about a smaller share of both. Half is what a coin is right about.
        min_diversity: Modes have collapsed if generated images differ by less than this share of what real ones do, or
            if as few of the classes are drawn, at two validations in a row.

    Raises:
        UserError: If a share lies outside [0, 1].
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
    ) -> None:
        shares = {"min_usage": min_usage, "min_perplexity": min_perplexity, "certainty": certainty}
        for name, value in {**shares, "blindness": blindness, "min_diversity": min_diversity}.items():
            if not 0 <= value <= 1:
                raise UserError(f"{name} must lie in [0, 1], got {value}: set --health.{name}")
        self.min_usage, self.min_perplexity, self.grace_steps = min_usage, min_perplexity, grace_steps
        self.gan_grace_steps = gan_grace_steps
        self.oscillation, self.explosion = oscillation, explosion
        self.certainty, self.blindness, self.min_diversity = certainty, blindness, min_diversity
        self.players: deque[list[float]] = deque(maxlen=ENOUGH)
        self.losses: deque[float] = deque(maxlen=HISTORY)
        self.norms: deque[float] = deque(maxlen=HISTORY)
        self.collapsed = False  # whether the last validation found the modes collapsed
        self.said: set[str] = set()

    def on_before_optimizer_step(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, optimizer: Any
    ) -> None:
        """Log the gradient norm of each part, with each line of the log."""
        if not is_log_step(trainer, trainer.global_step + 1):
            return
        norms = {name: grad_norm(part) for name, part in pl_module.named_children() if has_grad(part)}
        pl_module.log_dict({f"grad_norm/{name}": norm for name, norm in norms.items()})
        total = float(torch.stack(list(norms.values())).norm()) if norms else 0.0
        usual = statistics.median(self.norms) if len(self.norms) >= ENOUGH else None
        if usual is not None and not total <= self.explosion * usual:  # NaN counts as exploded
            clip, *_ = [*clip_options(pl_module), "--trainer.gradient_clip_val"]
            self.say(
                trainer,
                "exploding_gradient",
                f"gradient norm {total:.3g}, {total / max(usual, 1e-12):.0f} times its median",
                f"lower --model.lr, or clip with {clip}=1",
            )
        self.norms.append(total)

    def on_train_batch_end(self, trainer: lightning.Trainer, pl_module: Any, *args: Any) -> None:
        """Judge loss and codebook, with each line of the log."""
        if not is_log_step(trainer, trainer.global_step) or not trainer.is_global_zero:
            return
        metrics = trainer.callback_metrics
        if "train/loss" in metrics:
            self.losses.append(float(metrics["train/loss"]))
            last_third = list(self.losses)[-(len(self.losses) // 3) :]  # the first fall of the loss is no straight line
            spread = detrended_spread(last_third)
            if len(last_third) >= ENOUGH and spread > self.oscillation:
                self.say(
                    trainer,
                    "loss_oscillation",
                    f"train/loss varies by {spread:.0%} of its mean about its trend, over the last third of its log",
                    "lower --model.lr, or raise --data.batch_size",
                )
        self.judge_codebook(trainer, pl_module, "train")
        if all(f"train/{name}" in metrics for name in PLAYERS):
            self.judge_players(trainer, [float(metrics[f"train/{name}"]) for name in PLAYERS])

    def on_validation_end(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        """Judge the codebook over the whole validation set, and what is generated."""
        if trainer.state.fn == "fit" and not trainer.sanity_checking and trainer.is_global_zero:
            self.judge_codebook(trainer, pl_module, "val")
            self.judge_samples(trainer, pl_module)
            self.judge_glyphs(trainer)

    def judge_codebook(self, trainer: lightning.Trainer, pl_module: Any, stage: str) -> None:
        """Say so if usage or perplexity of ``stage`` lies under its share."""
        codes = getattr(pl_module, "codes_in_use", "") if stage == "val" else ""
        usage = trainer.callback_metrics.get(f"{stage}/{codes}codebook_usage")
        perplexity = trainer.callback_metrics.get(f"{stage}/{codes}perplexity")
        if usage is None or perplexity is None or trainer.global_step < self.grace_steps:
            return
        size = pl_module.quantizer.num_embeddings
        if usage < self.min_usage or perplexity < self.min_perplexity * size:
            self.say(
                trainer,
                "codebook_collapse",
                f"{float(usage):.1%} of {size} codes used, perplexity {float(perplexity):.1f} ({stage})",
                COLLAPSE_MEND,
            )

    def judge_players(self, trainer: lightning.Trainer, figures: list[float]) -> None:
        """Say so if the discriminator leaves the generator nothing to learn from, being too sure or blind."""
        self.players.append(figures)
        if len(self.players) < ENOUGH or trainer.global_step < self.gan_grace_steps:
            return
        p_real, p_fake, passed, caught = map(statistics.fmean, zip(*self.players, strict=True))
        if min(p_real, 1 - p_fake) > self.certainty:
            self.say(
                trainer,
                "discriminator_too_strong",
                f"D(x) is {p_real:.3f} and D(G(z)) {p_fake:.4f} over {ENOUGH} lines of the log",
                "lower --model.disc_lr, or set --model.spectral_norm=true or --model.objective=feature_matching",
            )
        elif (passed + caught) / 2 < self.blindness:
            self.say(
                trainer,
                "discriminator_too_weak",
                f"it passes {passed:.0%} of the real images and catches {caught:.0%} of the generated ones",
                "raise --model.disc_lr, or lower --model.lr or the discriminator's dropout or noise",
            )

    def judge_samples(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        """Say so if generated images are all alike, or of few classes, at two validations in a row: one may pass."""
        metrics, classes = trainer.callback_metrics, getattr(pl_module, "num_classes", 0)
        diversity, drawn = metrics.get("val/diversity"), metrics.get("val/classes_drawn")
        if diversity is None or trainer.global_step < self.gan_grace_steps:
            return
        collapsed = diversity < self.min_diversity or (drawn is not None and drawn < self.min_diversity * classes)
        if collapsed and self.collapsed:
            of = "" if drawn is None else f", and are of {float(drawn):.1f} of {classes} classes"
            self.say(
                trainer,
                "mode_collapse",
                f"generated images differ by {float(diversity):.0%} of what real ones do{of}",
                "set --model.objective=feature_matching, or lower --model.lr",
            )
        self.collapsed = bool(collapsed)

    def judge_glyphs(self, trainer: lightning.Trainer) -> None:
        """Say so if held-out glyphs are worse than the source's, blurred, or no longer the character."""
        names = ("l1_gain", "grey", "retrieval", "retrieval_identity")
        figures = [trainer.callback_metrics.get(f"val/{name}") for name in names]
        if None in figures or trainer.global_step < self.gan_grace_steps:
            return
        gain, grey, found, identity = map(float, figures)  # type: ignore[arg-type]
        if gain < 0:
            evidence = f"held-out glyphs are {-gain:.0%} farther from the target than the source's are"
            self.say(trainer, "worse_than_copying", evidence, "raise --model.lr or --model.l1_weight, or train longer")
        if grey > BLURRED:
            evidence = f"they have {grey:.1f} times as many grey pixels as the target's"
            self.say(trainer, "blur", evidence, "raise --model.disc_weight, or lower --model.l1_weight")
        if found < identity - LOST:
            evidence = f"{found:.0%} are nearest to their own target, of the source's {identity:.0%}"
            self.say(trainer, "content_lost", evidence, "raise --model.l1_weight, or lower --model.disc_weight")

    def on_exception(self, trainer: lightning.Trainer, pl_module: Any, exception: BaseException) -> None:
        """Record a loss that is not finite, and name the last good checkpoint."""
        if isinstance(exception, NonFiniteError):
            last = Path(trainer.default_root_dir) / "checkpoints" / "last.ckpt"
            good = f"resume with --ckpt_path {last}" if last.exists() else "there is no checkpoint yet"
            evidence = f"{', '.join(exception.terms)} not finite at batch {exception.batch_idx}"
            self.say(trainer, "non_finite", evidence, f"lower --model.lr; {good}", batch_idx=exception.batch_idx)

    def say(self, trainer: lightning.Trainer, event: str, evidence: str, mend: str, **more: Any) -> None:
        """Print and record ``event``, the first time that it happens."""
        if event in self.said or not trainer.is_global_zero:
            return
        self.said.add(event)
        step, mend = trainer.global_step, getattr(trainer.lightning_module, "mends", {}).get(event, mend)
        rank_zero_info(f"health: {event.replace('_', ' ')} at step {step}: {evidence}: {mend}")
        line = {"time": round(time.time(), 1), "step": step, "event": event, "evidence": evidence, "mend": mend, **more}
        append(Path(trainer.default_root_dir) / "health.jsonl", json.dumps(line) + "\n")

    def state_dict(self) -> dict[str, Any]:
        """What has been seen and said."""
        history = {name: list(getattr(self, name)) for name in ("losses", "norms", "players")}
        return {**history, "collapsed": self.collapsed, "said": sorted(self.said)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on without saying anything twice."""
        self.losses = deque(state_dict["losses"], maxlen=HISTORY)
        self.norms = deque(state_dict["norms"], maxlen=HISTORY)
        self.players = deque(state_dict["players"], maxlen=ENOUGH)
        self.collapsed = state_dict.get("collapsed", False)
        self.said = set(state_dict["said"])


def detrended_spread(values: list[float]) -> float:
    """Return the standard deviation of ``values`` about their least-squares line, as a share of their mean.

    Example:
        >>> detrended_spread([4.0, 3.0, 2.0, 1.0])
        0.0
        >>> round(detrended_spread([1.0, 3.0, 1.0, 3.0, 1.0, 3.0]), 2)
        0.48
    """
    if len(values) < 3:
        return 0.0
    slope, intercept = statistics.linear_regression(range(len(values)), values)
    residuals = [value - (intercept + slope * i) for i, value in enumerate(values)]
    return statistics.pstdev(residuals) / max(abs(statistics.fmean(values)), 1e-12)


def has_grad(part: nn.Module) -> bool:
    """Whether any parameter of ``part`` has a gradient."""
    return any(p.grad is not None for p in part.parameters())


def grad_norm(part: nn.Module) -> torch.Tensor:
    """Return the L2 norm of all gradients of ``part``, a scalar tensor."""
    grads = [p.grad for p in part.parameters() if p.grad is not None]
    return torch.nn.utils.get_total_norm(grads)
