"""LightningCLI with vqlab's run folder, links from data to model, callbacks and one-line errors.

The methods of :class:`CLI` are in the order in which LightningCLI calls them.
"""

import dataclasses
import json
import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
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
from vqlab.callbacks import EMA, Health, Plateau, SampleGrid
from vqlab.callbacks.always import (
    BatchStatistics,
    Estimate,
    LastValidation,
    LearningRates,
    Progress,
    StepSeed,
    Throughput,
)
from vqlab.callbacks.checkpoints import LastAndBest, stored_line
from vqlab.cli.arguments import read_configs
from vqlab.cli.compat import adjust_parser, quiet, with_current_options
from vqlab.cli.devices import check_started, check_strategy, choose_precision
from vqlab.cli.errors import class_of, explain, misconfigured, with_options
from vqlab.cli.run_folder import held_run_folder, requeued_from, resume_command, with_run_config
from vqlab.cli.save_config import StartRun, choose_loggers, log_best
from vqlab.data.datamodule import SplitDataModule, apply_stored_format
from vqlab.errors import UserError
from vqlab.experiments.checkpoint_header import read_header
from vqlab.experiments.run_state import FINISHED
from vqlab.experiments.runs import HEALTH
from vqlab.experiments.settings import flatten
from vqlab.fonts.predict import check_font, write_glyphs
from vqlab.quantizers.base import MAX_EXPORT
from vqlab.serialization import to_config
from vqlab.training.arrays import check_suffix, save_arrays
from vqlab.training.checkpoint import check_resumable, hyper_parameters, load_weights, read_checkpoint, refusing_damage
from vqlab.training.data_format import ENTRY, Format, stored_format
from vqlab.training.lightning_fixes import AtomicCheckpointIO, leave_sigterm_alone
from vqlab.training.steps import refuse_trainer_options
from vqlab.training.stop_signals import Stopped

# Arguments of the model that the data decide: property of the DataModule -> argument.
SAME_NAME = ("channels", "image_size", "length", "vocab_size", "num_classes", "num_styles")
LINKS = {"image_format": "images", **{name: name for name in SAME_NAME}}
# Arguments of the model's networks that the data decide: argument -> property of the DataModule.
NETWORK_LINKS = {
    "encoder": {"in_channels": "channels", "image_size": "image_size"},
    "decoder": {"out_channels": "channels", "image_size": "image_size"},
    "generator": {"out_channels": "channels", "image_size": "image_size", "num_styles": "num_styles"},
    "network": {"in_channels": "channels", "image_size": "image_size"},
    "discriminator": {"in_channels": "channels", "image_size": "image_size", "num_styles": "num_styles"},
}
LINKED = {*LINKS.values(), *(name for links in NETWORK_LINKS.values() for name in links)}
ALWAYS = {"checkpoint": LastAndBest, "samples": SampleGrid, "health": Health, "ema": EMA, "plateau": Plateau}
OPTIONS: list[tuple[str, Any, Any, str]] = [
    ("name", str | None, None, "Name of the run folder. Default: the time."),
    ("note", str | None, None, "Note on the run, in one line; shown by info, report and W&B."),
    ("runs", str, "runs", "Folder of all runs."),
    ("codes", str, "codes.npz", "File that predict writes: .npz or .safetensors."),
    ("font", str | None, None, "Font file (.ttf) that predict writes from glyphs."),
    ("family", str | None, None, "Family name of that font."),
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
    """Set up the libraries, and import the classes that YAML and options may name without their module."""
    quiet()
    adjust_parser()
    for name in vqlab.__all__:
        getattr(vqlab, name)


class CLI(LightningCLI):
    """``vqlab fit|validate|test|predict``; ``held`` locks the run folder until the command ends."""

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
        overwrite = "Start the run of this --name again: empty its folder."
        parser.add_argument("--overwrite", action=ActionYesNo, nargs="?", default=False, help=overwrite)
        for key, callback in ALWAYS.items():
            parser.add_lightning_class_args(callback, key)
        parser.set_defaults({"ema.decay": None})
        for source, target in LINKS.items():
            parser.link_arguments(f"data.{source}", f"model.init_args.{target}", as_plain, apply_on="instantiate")

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parse the options; an error has one line."""
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
        """Keep the options as they are: they override those of the checkpoint, and ``before_fit`` prints both."""

    # Data, model and Trainer

    def before_instantiate_classes(self) -> None:
        """Find the run folder, and link the data to the chosen networks."""
        assert self.subcommand is not None
        config = self.config[self.subcommand]
        if self.subcommand != "fit" and not config.get("ckpt_path"):
            raise UserError(f"vqlab {self.subcommand} needs trained weights: add --ckpt_path runs/.../best.ckpt")
        if config.get("model") is None or config.get("data") is None:
            raise UserError("no model or no data chosen: add --model and --data, or --config configs/vqvae.yaml")
        model, data = class_of(config.model.class_path), class_of(config.data.class_path)
        wanted, given = getattr(model, "modality", None), getattr(data, "modality", None)
        if wanted and given and wanted != given:
            raise UserError(f"{model.__name__} is made for {wanted}s, {data.__name__} has {given}s: change one of them")
        choose_precision(config.trainer)
        self._link_networks(config.model.get("init_args") or Namespace(), "model.init_args")
        if self.subcommand == "fit":
            config.ckpt_path = config.get("ckpt_path") or requeued_from(config)
        if config.ckpt_path:
            self.data_format = stored_format(read_header(config.ckpt_path))
            # Earlier than the model, which is built from the format of the data.
            self.parser.add_instantiator(self.build_data, lightning.LightningDataModule, subclasses=True)
        self.run_folder = self.held.enter_context(held_run_folder(config, self.subcommand))

    def _link_networks(self, arguments: Namespace, path: str) -> None:
        """Link the data to the chosen networks, also to those inside groups of arguments."""
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
        """Build the data with the vocabulary, classes and statistics that the checkpoint stores."""
        data: Any = cls(*args, **kwargs)
        if self.data_format is not None and isinstance(data, SplitDataModule):
            apply_stored_format(data, self.data_format)
        return data

    def instantiate_classes(self) -> None:
        """Build data, model and Trainer; a ValueError of a constructor becomes an error of one line."""
        try:
            super().instantiate_classes()
        except ValueError as error:
            raise with_options(explain(error), self.config[self.subcommand], LINKED) from error

    def instantiate_trainer(self, **kwargs: Any) -> lightning.Trainer:
        """Add loggers, callbacks and the strategy."""
        assert self.subcommand is not None
        config = self.config_init[self.subcommand]
        trainer = config["trainer"]
        check_strategy(trainer.get("strategy"))
        if not self.model.automatic_optimization:
            accumulate = trainer.get("accumulate_grad_batches")
            refuse_trainer_options(trainer.get("gradient_clip_val"), accumulate, self.model)
        trainer["default_root_dir"] = str(self.run_folder)
        trainer["plugins"] = [*(trainer.get("plugins") or []), AtomicCheckpointIO()]
        trainer["logger"] = choose_loggers(trainer.get("logger"), self.run_folder, self.subcommand, config)
        callbacks = [BatchStatistics(), *(trainer.get("callbacks") or []), StepSeed()]
        if trainer.get("enable_progress_bar") is not False:
            callbacks.append(Progress())
        if self.subcommand == "fit":
            callbacks += [LearningRates(), Throughput(), Estimate(), LastValidation()]
        trainer["callbacks"] = callbacks
        if trainer.get("enable_checkpointing") is None:
            trainer["enable_checkpointing"] = True
        try:
            built = super().instantiate_trainer(**kwargs)
        except (MisconfigurationException, ValueError, TypeError, RuntimeError, KeyError) as error:
            raise misconfigured(error) from error
        if isinstance(built.strategy, DDPStrategy):
            built.strategy._ddp_kwargs.setdefault("broadcast_buffers", False)  # codebooks are equal on all ranks
        check_started(built)
        leave_sigterm_alone(built)
        return built

    # The run

    def _run_subcommand(self, subcommand: str) -> None:
        """Run; the error of a damaged checkpoint names it."""
        with refusing_damage(self._get(self.config, "ckpt_path")):
            try:
                with self._ending_all_ranks():
                    super()._run_subcommand(subcommand)
            except MisconfigurationException as error:
                raise misconfigured(error) from error
            except UserError as error:
                raise with_options(error, self.config[subcommand], LINKED) from error

    @contextmanager
    def _ending_all_ranks(self) -> Iterator[None]:
        """End the other ranks, which wait for this one, if it stops before the first step."""
        try:
            yield
        except (MisconfigurationException, UserError, Stopped):
            launcher = self.trainer.strategy.launcher
            if isinstance(launcher, _SubprocessScriptLauncher) and not any(run.started for run in self._start_run()):
                launcher.kill(signal.SIGKILL)
            raise

    def _start_run(self) -> list[StartRun]:
        callbacks: list[Any] = self.trainer.callbacks  # type: ignore[attr-defined]
        return [callback for callback in callbacks if isinstance(callback, StartRun)]

    def before_fit(self) -> None:
        """Check the checkpoint to resume from, and print the settings that differ from it."""
        rank_zero_info(f"run folder: {self.run_folder}")
        self._get(self.config_init, "checkpoint").resume_command = partial(resume_command, callbacks=ALWAYS)
        path = self._get(self.config, "ckpt_path")
        if not path:
            return
        checkpoint = self._check_checkpoint(path)
        check_resumable(checkpoint, path)
        old, new = ({"init_args": dict(values)} for values in (hyper_parameters(checkpoint), self.model.hparams))
        old, new = flatten({"model": old}), flatten({"model": new})
        for key in sorted(name for name in old.keys() & new.keys() if old[name] != new[name]):
            if key.endswith("optimization.kind"):
                rule = f"a resumed run must keep {key}={old[key]}, the optimizer whose state {path} holds"
                raise UserError(f"{rule}, got {new[key]}")
            rank_zero_info(f"resume: {key} was {old[key]} in the checkpoint and is {new[key]} now; the new value wins")
        step = checkpoint["global_step"]
        rank_zero_info(f"resume: from step {step} of {path}")
        if 0 <= self.trainer.max_steps <= step:
            raise UserError(f"{path} is at step {step} of {self.trainer.max_steps}: raise --trainer.max_steps")
        for start_run in self._start_run():
            start_run.resumed = (step, stored_line(checkpoint))

    def before_validate(self) -> None:
        """Check the checkpoint."""
        self._check_checkpoint(self._get(self.config, "ckpt_path"))

    before_test = before_predict = before_validate

    def _check_checkpoint(self, path: str) -> dict[str, Any]:
        """Load the weights of a checkpoint into the model, and return the checkpoint."""
        checkpoint = read_checkpoint(path)
        stored = str(hyper_parameters(checkpoint).get("_class_path"))
        if stored != to_config(self.model)["class_path"]:
            names = stored.rpartition(".")[2], type(self.model).__name__
            raise UserError("{} holds a {}, not a {}: change --model".format(path, *names))
        load_weights(self.model, checkpoint["state_dict"], path)
        if self.data_format is not None:
            setattr(self.model, ENTRY, self.data_format)
        return checkpoint

    def after_fit(self) -> None:
        """Mark the run as finished, and print its metrics and files."""
        if self.trainer.is_global_zero:
            with write_atomic(self.run_folder / FINISHED) as file:
                file.write(json.dumps({"step": self.trainer.global_step, "time": round(time.time(), 1)}).encode())
            if self._get(self.config, "wandb.log_model"):
                log_best(self.trainer)
        metrics = {k: float(v) for k, v in self.trainer.callback_metrics.items() if k.startswith("val/")}
        values = "  ".join(f"{name} {value:.4g}" for name, value in sorted(metrics.items()))
        rank_zero_info(f"finished at step {self.trainer.global_step}: {values or 'no validation'}")
        outputs = ("samples", "metrics.csv", "checkpoints/best.ckpt", HEALTH)
        files = [file for file in outputs if (self.run_folder / file).exists()]
        rank_zero_info(f"run folder: {self.run_folder} ({', '.join(files)})")

    def predict(self, model: Any, **kwargs: Any) -> None:
        """Write the predictions for the test set, and the codebook, to the run folder."""
        if self.trainer.world_size > 1:
            raise UserError("vqlab predict needs a single process: set --trainer.devices=1")
        path = self.run_folder / self._get(self.config, "codes")
        check_suffix(path)
        fonts = check_font(self.datamodule, self._get(self.config, "font"))
        kwargs["return_predictions"] = True
        batches: Any = self.trainer.predict(model, **kwargs)
        arrays = {name: torch.cat([batch[name] for batch in batches]) for name in batches[0]}
        if hasattr(model, "quantizer") and model.quantizer.num_embeddings <= MAX_EXPORT:
            arrays |= model.quantizer.codebooks()
        save_arrays(path, arrays)
        rank_zero_info(f"{path}: " + ", ".join(f"{name} {tuple(array.shape)}" for name, array in arrays.items()))
        if self.datamodule.modality == "font":
            write_glyphs(self.datamodule, arrays, self.run_folder, fonts, self._get(self.config, "family"))


class Checked(Exception):
    """Raised when all options have been read."""


def option_errors(commands: list[list[str]]) -> list[str | None]:
    """Return the one-line error of each argument list, None if it is valid; builds nothing."""
    found: list[str | None] = []

    class OptionCheck(CLI):
        def parse_arguments(self, parser: Any, args: Any) -> None:
            for command in commands:
                try:
                    super().parse_arguments(parser, command)
                    found.append(None)
                except UserError as error:
                    found.append(error.line)
            raise Checked

    prepare()
    with suppress(Checked):
        OptionCheck(args=[], held=ExitStack())
    return found


def as_plain(value: Any) -> Any:
    """Return a dataclass as Namespaces, which the parser can link, also within; return anything else unchanged."""
    if not dataclasses.is_dataclass(value) or isinstance(value, type):
        return value
    return Namespace(**{field.name: as_plain(getattr(value, field.name)) for field in dataclasses.fields(value)})
