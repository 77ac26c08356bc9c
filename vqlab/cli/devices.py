"""How many processes a run has, how they share the model, and in which precision it calculates."""

import platform
import re
from typing import Any

import lightning
import torch
from lightning.fabric.plugins.environments import LightningEnvironment
from lightning.pytorch.utilities import rank_zero_info

from vqlab.errors import UserError
from vqlab.training.lightning_fixes import cluster_environment


def num_devices(trainer: Any) -> int:
    """Return how many processes the Trainer options ask for, over all nodes."""
    devices, nodes = trainer.get("devices", "auto"), int(trainer.get("num_nodes") or 1)
    if isinstance(devices, str) and "," in devices:
        devices = devices.strip(",").split(",")
    if isinstance(devices, list):
        return len(devices) * nodes
    if devices in ("auto", -1, "-1"):
        return (1 if trainer.get("accelerator") == "cpu" else max(1, torch.cuda.device_count())) * nodes
    return int(devices) * nodes if str(devices).isdigit() else nodes


def has_bf16_instructions() -> bool:
    """Return whether the CPU calculates in bfloat16; others emulate it, up to 30 times slower than float32."""
    if platform.machine().lower() in ("arm64", "aarch64"):
        return torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return torch.cpu._is_avx512_bf16_supported()


def choose_precision(trainer: Any) -> None:
    """Replace a mixed precision that only slows down this run, which is on a CPU, and print so."""
    given, kind = str(trainer.get("precision")), trainer.get("accelerator", "auto")
    if kind != "cpu" and (kind != "auto" or torch.accelerator.is_available()):
        return
    slow = f"precision {given} is slow on this CPU, which has no bf16 instructions"
    if has_bf16_instructions():
        if given in ("16", "16-mixed"):
            trainer["precision"] = "bf16-mixed"
            rank_zero_info(f"precision {given} needs a GPU: using bf16-mixed")
    elif given in ("16", "16-mixed", "bf16", "bf16-mixed"):
        trainer["precision"] = "32-true"
        rank_zero_info(f"{slow}: using 32-true")
    elif given == "bf16-true":
        rank_zero_info(f"{slow}: --trainer.precision=32-true is faster")


def check_started(trainer: lightning.Trainer) -> None:
    """Raise UserError if torchrun or SLURM has started more or fewer processes than the Trainer asks for.

    Lightning does not check it: a Trainer of four devices would train on one where SLURM has one task.
    """
    environment = cluster_environment(trainer)
    if isinstance(environment, LightningEnvironment):  # it starts them by itself
        return
    started, devices, nodes = environment.world_size(), trainer.num_devices, trainer.num_nodes
    if started != devices * nodes:
        raise UserError(
            f"{started} of {devices * nodes} processes started: --trainer.devices={devices} and "
            f"--trainer.num_nodes={nodes} must be torchrun's --nproc_per_node and --nnodes, or SLURM's "
            "--ntasks-per-node and --nodes with srun vqlab; without srun, unset SLURM_NTASKS"
        )


def check_strategy(strategy: Any) -> None:
    """Raise UserError for a strategy that splits the model over GPUs: manual steps and EMA need whole weights."""
    name = strategy if isinstance(strategy, str) else type(strategy).__name__
    if re.match("fsdp|deepspeed|modelparallel", name, re.IGNORECASE):
        raise UserError(
            f"{name} splits a model over GPUs, which vqlab's models do not support: leave out --trainer.strategy, "
            "and each of --trainer.devices=4 GPUs holds the whole model (DDP)"
        )
