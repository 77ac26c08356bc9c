"""LightningCLI with vqlab's run folder, links from data to model, callbacks and one-line errors.

LightningCLI calls the methods of :class:`CLI` in the order in which they stand here.
"""

import dataclasses
import json
import signal
import time
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import lightning
import torch
from jsonargparse import ActionYesNo, ArgumentError, Namespace
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.strategies import DDPStrategy
from lightning.pytorch.strategies.launchers import _SubprocessScriptLauncher
from lightning.pytorch.utilities import rank_zero_info
from lightning.pytorch.utilities.exceptions import MisconfigurationException

import vqlab
from vqlab.atomic_io import write_atomic
from vqlab.callbacks.always import BatchStatistics, LearningRates, Progress, StepSeed, Throughput
from vqlab.callbacks.checkpoints import LastAndBest, stored_line
from vqlab.callbacks.ema import EMA
from vqlab.callbacks.health.callback import Health
from vqlab.callbacks.plateau import Plateau
from vqlab.callbacks.sample_grid import SampleGrid
from vqlab.cli.compat import quiet, read_yaml_as_vqlab, try_integers_first, with_current_options
from vqlab.cli.config_files import read_configs
from vqlab.cli.devices import check_started, check_strategy, choose_precision, num_devices
from vqlab.cli.errors import class_of, explain, misconfigured, with_options
from vqlab.cli.loggers import choose_loggers, log_best
from vqlab.cli.run_folder import held_run_folder, requeued_from, resume_command, with_run_config
from vqlab.cli.save_config import StartRun
from vqlab.data.datamodule import SplitDataModule, apply_stored_format
from vqlab.errors import UserError
from vqlab.experiments.checkpoint_header import read_header
from vqlab.experiments.run_state import FINISHED
from vqlab.fonts.predict import check_font, write_glyphs
from vqlab.quantizers.base import MAX_EXPORT
from vqlab.serialization import to_config
from vqlab.training.arrays import check_suffix, save_arrays
from vqlab.training.checkpoint import check_resumable, hyper_parameters, load_weights, read_checkpoint, refusing_damage
from vqlab.training.data_format import ENTRY, Format, stored_format
from vqlab.training.lightning_fixes import AtomicCheckpointIO, leave_sigterm_alone
from vqlab.training.manual import refuse_trainer_options
from vqlab.training.stop_signals import Stopped

# What the command line takes from the data: property of the DataModule -> argument of the model.
LINKS = {
    "image_format": "images",
    "channels": "channels",
    "image_size": "image_size",
    "length": "length",
    "vocab_size": "vocab_size",
    "num_classes": "num_classes",
    "num_styles": "num_styles",
}
# The same for the networks that the model holds: argument of the network -> property of the DataModule.
NETWORK_LINKS = {
    "encoder": {"in_channels": "channels", "image_size": "image_size"},
    "decoder": {"out_channels": "channels", "image_size": "image_size"},
    "generator": {"out_channels": "channels", "image_size": "image_size", "num_styles": "num_styles"},
    "discriminator": {"in_channels": "channels", "image_size": "image_size", "num_styles": "num_styles"},
}
LINKED = {*LINKS.values(), *(name for links in NETWORK_LINKS.values() for name in links)}
ALWAYS = {"checkpoint": LastAndBest, "samples": SampleGrid, "health": Health, "ema": EMA, "plateau": Plateau}
OPTIONS: list[tuple[str, Any, Any, str]] = [
    ("name", str | None, None, "Name of the run's folder; null takes the time."),
    ("runs", str, "runs", "Folder of all runs."),
    ("codes", str, "codes.npz", "File that predict writes: .npz or .safetensors."),
    ("font", str | None, None, "Font file that predict writes of glyphs: .ttf."),
    ("family", str | None, None, "Name of that font's family."),
    ("wandb.mode", str, "auto", "auto, online, offline or disabled."),
    ("wandb.project", str, "vqlab", "W&B project."),
    ("wandb.log_model", bool, False, "Log best.ckpt as artifact at the end of fit."),
    ("tensorboard", bool, False, "Write to tensorboard/ in the run's folder."),
]


def run(args: list[str]) -> None:
    """Run ``vqlab fit|validate|test|predict`` with ``args`` (the subcommand first)."""
    prepare()
    with ExitStack() as held:
        CLI(args=with_run_config(args, ALWAYS), held=held)


def prepare() -> None:
    """Set up the libraries, and import what YAML and flags may call by its short name."""
    quiet()
    read_yaml_as_vqlab()
    try_integers_first()
    for name in vqlab.__all__:
        getattr(vqlab, name)


class CLI(LightningCLI):
    """``vqlab fit|validate|test|predict``; ``held`` holds the run's folder for as long as the command runs."""

    run_folder: Path
    data_format: Format | None = None  # of the data that the checkpoint was trained on

    def __init__(self, args: list[str], held: ExitStack) -> None:
        self.held = held
        parser_kwargs: dict[str, Any] = {"exit_on_error": False, "allow_abbrev": False}
        super().__init__(
            lightning.LightningModule,
            lightning.LightningDataModule,
            subclass_mode_model=True,
            subclass_mode_data=True,
            auto_configure_optimizers=False,
            seed_everything_default=0,
            save_config_callback=StartRun,
            save_config_kwargs={"save_to_log_dir": False},
            load_from_checkpoint_support=False,
            parser_kwargs={**parser_kwargs, **{name: dict(parser_kwargs) for name in self.subcommands()}},
            args=args,
        )

    # Options

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the run's folder and the callbacks that every run has."""
        for name, kind, default, meaning in OPTIONS:
            parser.add_argument(f"--{name}", type=kind, default=default, help=meaning)
        overwrite = "Begin the run of this --name anew: empty its folder."
        parser.add_argument("--overwrite", action=ActionYesNo, nargs="?", default=False, help=overwrite)
        for key, callback in ALWAYS.items():
            parser.add_lightning_class_args(callback, key)
        parser.set_defaults({"ema.decay": None})
        for source, target in LINKS.items():
            parser.link_arguments(f"data.{source}", f"model.init_args.{target}", as_plain, apply_on="instantiate")

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parse, with errors of one line."""
        args = with_current_options(args, read_configs(args))
        try:
            self.config = parser.parse_args(args)
        except (ArgumentError, UnicodeDecodeError) as error:
            raise explain(error, self._parser(args[0])._option_string_actions) from error

    def _set_seed(self) -> None:
        try:
            super()._set_seed()
        except ValueError as error:
            raise UserError(f"seed_everything {error}: set --seed_everything=0") from error

    def _parse_ckpt_path(self) -> None:
        """Leave the configuration alone: what the user passes now wins, and ``before_fit`` prints what changed."""

    # Data, model and Trainer

    def before_instantiate_classes(self) -> None:
        """Find the run's folder, and link the data to the networks that the user chose."""
        assert self.subcommand is not None
        config = self.config[self.subcommand]
        if self.subcommand != "fit" and not config.get("ckpt_path"):
            raise UserError(f"vqlab {self.subcommand} needs trained weights: add --ckpt_path runs/.../best.ckpt")
        if config.get("model") is None or config.get("data") is None:
            raise UserError(
                "no model or no data chosen: add --model VQVAE --data CIFAR10, or --config configs/vqvae.yaml"
            )
        model, data = class_of(config.model.class_path), class_of(config.data.class_path)
        wanted, given = getattr(model, "modality", None), getattr(data, "modality", None)
        if wanted and given and wanted != given:
            raise UserError(
                f"{model.__name__} is made for {wanted}s, {data.__name__} has {given}s: choose other --model or --data"
            )
        choose_precision(config.trainer)
        self._link_networks(config.model.get("init_args") or Namespace(), "model.init_args")
        if self.subcommand == "fit":
            config.ckpt_path = config.get("ckpt_path") or requeued_from(config)
        if config.ckpt_path:
            self.data_format = stored_format(read_header(config.ckpt_path))
            # Before the model is built after them.
            self.parser.add_instantiator(self.build_data, lightning.LightningDataModule, subclasses=True)
        self.run_folder = self.held.enter_context(held_run_folder(config, self.subcommand))

    def _link_networks(self, arguments: Namespace, path: str) -> None:
        """Link the data to the networks that the user chose, those in groups of arguments, too."""
        for part, value in vars(arguments).items():
            if not isinstance(value, Namespace):
                continue
            if "class_path" not in value:
                self._link_networks(value, f"{path}.{part}")
            for argument, source in NETWORK_LINKS.get(part, {}).items():
                if argument in (value.get("init_args") or {}):
                    target = f"{path}.{part}.init_args.{argument}"
                    self._parser(self.subcommand).link_arguments(f"data.{source}", target, apply_on="instantiate")

    def build_data(self, cls: type, *args: Any, **kwargs: Any) -> Any:
        """Build the data with the vocabulary, classes and statistics of the checkpoint, if there is one."""
        data: Any = cls(*args, **kwargs)
        if self.data_format is not None and isinstance(data, SplitDataModule):
            apply_stored_format(data, self.data_format)
        return data

    def instantiate_classes(self) -> None:
        """Build data, model and Trainer; what a constructor refuses is the user's to correct."""
        try:
            super().instantiate_classes()
        except ValueError as error:
            raise self._with_options(explain(error)) from error

    def _with_options(self, error: UserError) -> UserError:
        return with_options(error, self.config[self.subcommand], LINKED)

    def instantiate_trainer(self, **kwargs: Any) -> lightning.Trainer:
        """Add loggers, callbacks and the strategy."""
        assert self.subcommand is not None
        config = self.config_init[self.subcommand]
        trainer = config["trainer"]
        check_strategy(trainer.get("strategy"))
        if not self.model.automatic_optimization:
            accumulate = trainer.get("accumulate_grad_batches")
            refuse_trainer_options(trainer.get("gradient_clip_val"), accumulate, self.model)
        if trainer.get("strategy") == "auto" and num_devices(trainer) > 1:
            trainer["strategy"] = DDPStrategy(broadcast_buffers=False)  # codebooks are equal on all ranks
        trainer["default_root_dir"] = str(self.run_folder)
        trainer["plugins"] = [*(trainer.get("plugins") or []), AtomicCheckpointIO()]
        trainer["logger"] = choose_loggers(trainer.get("logger"), self.run_folder, self.subcommand, config)
        callbacks = [BatchStatistics(), *(trainer.get("callbacks") or []), StepSeed()]
        if trainer.get("enable_progress_bar") is not False:
            callbacks.append(Progress())
        if self.subcommand == "fit":
            callbacks += [LearningRates(), Throughput()]
        trainer["callbacks"] = callbacks
        if trainer.get("enable_checkpointing") is None:
            trainer["enable_checkpointing"] = True
        return super().instantiate_trainer(**kwargs)

    def _instantiate_trainer(self, config: dict[str, Any], callbacks: list[lightning.Callback]) -> lightning.Trainer:
        try:
            trainer = super()._instantiate_trainer(config, callbacks)
        except (MisconfigurationException, ValueError, TypeError, RuntimeError, KeyError) as error:
            raise misconfigured(error) from error
        check_started(trainer)
        leave_sigterm_alone(trainer)
        return trainer

    # The run

    def _run_subcommand(self, subcommand: str) -> None:
        """Run; a damaged checkpoint is named, and a signal before the first step ends all ranks."""
        with refusing_damage(self._get(self.config, "ckpt_path")):
            try:
                super()._run_subcommand(subcommand)
            except MisconfigurationException as error:
                raise misconfigured(error) from error
            except UserError as error:
                raise self._with_options(error) from error
            except Stopped:
                launcher = self.trainer.strategy.launcher
                if isinstance(launcher, _SubprocessScriptLauncher) and not any(run.begun for run in self._start_run()):
                    launcher.kill(signal.SIGKILL)  # the other ranks wait for this one
                raise

    def _start_run(self) -> list[StartRun]:
        callbacks: list[Any] = self.trainer.callbacks  # type: ignore[attr-defined]
        return [callback for callback in callbacks if isinstance(callback, StartRun)]

    def before_fit(self) -> None:
        """Check a checkpoint before it is resumed, and print which value wins where it differs from now."""
        rank_zero_info(f"run folder: {self.run_folder}")
        self._get(self.config_init, "checkpoint").resume_command = partial(resume_command, callbacks=ALWAYS)
        path = self._get(self.config, "ckpt_path")
        if not path:
            return
        checkpoint = self._check_checkpoint(path)
        check_resumable(checkpoint, path)
        for key, (old, new) in differences(hyper_parameters(checkpoint), dict(self.model.hparams)).items():
            rank_zero_info(f"resume: model.{key} was {old} in the checkpoint and is {new} now; the new value wins")
        step = checkpoint["global_step"]
        rank_zero_info(f"resume: from step {step} of {path}")
        if 0 <= self.trainer.max_steps <= step:
            raise UserError(
                f"{path} is at step {step} and max_steps is {self.trainer.max_steps}: raise --trainer.max_steps"
            )
        for start_run in self._start_run():
            start_run.resumed = (step, stored_line(checkpoint))

    def before_validate(self) -> None:
        """Check the checkpoint."""
        self._check_checkpoint(self._get(self.config, "ckpt_path"))

    before_test = before_predict = before_validate

    def _check_checkpoint(self, path: str) -> dict[str, Any]:
        """Return a checkpoint whose weights fit the model."""
        checkpoint = read_checkpoint(path)
        stored = str(hyper_parameters(checkpoint).get("_class_path"))
        if stored != to_config(self.model)["class_path"]:
            raise UserError(
                f"{path} holds a {stored.rpartition('.')[2]}, not a {type(self.model).__name__}: change --model"
            )
        load_weights(self.model, checkpoint["state_dict"], path)
        if self.data_format is not None:
            setattr(self.model, ENTRY, self.data_format)
        return checkpoint

    def after_fit(self) -> None:
        """Print where everything is and what came out, and mark the run as finished."""
        if self.trainer.is_global_zero:
            with write_atomic(self.run_folder / FINISHED) as file:
                file.write(json.dumps({"step": self.trainer.global_step, "time": round(time.time(), 1)}).encode())
            if self._get(self.config, "wandb.log_model"):
                log_best(self.trainer)
        metrics = {k: float(v) for k, v in self.trainer.callback_metrics.items() if k.startswith("val/")}
        figures = "  ".join(f"{name} {value:.4g}" for name, value in sorted(metrics.items()))
        rank_zero_info(f"finished at step {self.trainer.global_step}: {figures or 'nothing was validated'}")
        best = "best" if (self.run_folder / "checkpoints/best.ckpt").exists() else "last"
        names = ("samples/*.png", "metrics.csv", f"checkpoints/{best}.ckpt")
        found = ", ".join(name for name in names if any(self.run_folder.glob(name)))
        rank_zero_info(f"run folder: {self.run_folder}" + (f" ({found})" if found else ""))

    def predict(self, model: Any, **kwargs: Any) -> None:
        """Write what the model predicts for the test set, and its codebook, to the run's folder."""
        if self.trainer.world_size > 1:
            raise UserError("vqlab predict writes one file from one process: set --trainer.devices=1")
        path = self.run_folder / self._get(self.config, "codes")
        check_suffix(path)
        family = self._get(self.config, "family")
        fonts = check_font(self.datamodule, self._get(self.config, "font"))
        kwargs["return_predictions"] = True
        batches: Any = self.trainer.predict(model, **kwargs)
        arrays = {name: torch.cat([batch[name] for batch in batches]) for name in batches[0]}
        if hasattr(model, "quantizer") and model.quantizer.num_embeddings <= MAX_EXPORT:
            arrays |= model.quantizer.codebooks()
        save_arrays(path, arrays)
        rank_zero_info(f"{path}: " + ", ".join(f"{name} {tuple(array.shape)}" for name, array in arrays.items()))
        if self.datamodule.modality == "font":
            write_glyphs(self.datamodule, arrays, self.run_folder, fonts, family)


def as_plain(value: Any) -> Any:
    """Return a dataclass as a mapping, which the parser can link, and anything else as it is."""
    return dataclasses.asdict(value) if dataclasses.is_dataclass(value) and not isinstance(value, type) else value


def differences(old: Any, new: Any, prefix: str = "") -> dict[str, tuple[Any, Any]]:
    """Return what differs between two specs, as ``{dotted name: (old, new)}``.

    Example:
        >>> differences({"quantizer": {"init_args": {"seed": 0}}}, {"quantizer": {"init_args": {"seed": 3}}})
        {'quantizer.seed': (0, 3)}
    """
    if isinstance(old, dict) and isinstance(new, dict):
        found: dict[str, tuple[Any, Any]] = {}
        for key in sorted(old.keys() & new.keys() - {"_class_path"}):  # an argument of one version only is no change
            name = prefix if key == "init_args" else f"{prefix}.{key}".lstrip(".")
            found |= differences(old[key], new[key], name)
        return found
    return {} if old == new else {prefix: (old, new)}
