"""Checks of precision, processes and strategy that Lightning does not make."""

import platform
import re
from typing import Any

import lightning
import torch
from lightning.fabric.plugins.environments import LightningEnvironment
from lightning.pytorch.utilities import rank_zero_info

from vqlab.errors import UserError
from vqlab.training.lightning_fixes import cluster_environment


def has_bf16_instructions() -> bool:
    """Return whether the CPU has bfloat16 instructions; emulation is up to 30 times slower than float32."""
    if platform.machine().lower() in ("arm64", "aarch64"):
        return torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return torch.cpu._is_avx512_bf16_supported()


def choose_precision(trainer: Any) -> None:
    """Replace a 16-bit precision that is slow on this CPU, and print so."""
    given, accelerator = str(trainer.get("precision")), trainer.get("accelerator", "auto")
    on_gpu = accelerator not in ("cpu", "auto") or (accelerator == "auto" and torch.accelerator.is_available())
    if on_gpu or given not in ("16", "16-mixed", "bf16", "bf16-mixed"):
        return
    if not has_bf16_instructions():
        trainer["precision"] = "32-true"
        rank_zero_info(f"precision {given} is slow on this CPU, which has no bf16 instructions: using 32-true")
    elif given.startswith("16"):
        trainer["precision"] = "bf16-mixed"
        rank_zero_info(f"precision {given} needs a GPU: using bf16-mixed")


def check_started(trainer: lightning.Trainer) -> None:
    """Raise UserError if torchrun or SLURM has started more or fewer processes than the Trainer asks for.

    Lightning does not check it: a Trainer with four devices would train on one if SLURM has one task.
    """
    environment = cluster_environment(trainer)
    started, devices, nodes = environment.world_size(), trainer.num_devices, trainer.num_nodes
    if not isinstance(environment, LightningEnvironment) and started != devices * nodes:  # Lightning starts its own
        raise UserError(
            f"{started} of {devices * nodes} processes started: --trainer.devices={devices} and --trainer.num_nodes="
            f"{nodes} must equal torchrun's --nproc_per_node and --nnodes, or srun's --ntasks-per-node and --nodes; "
            "without srun, unset SLURM_NTASKS"
        )


def check_strategy(strategy: Any) -> None:
    """Raise UserError for a strategy that splits the model over GPUs: manual steps and EMA need whole weights."""
    name = strategy if isinstance(strategy, str) else type(strategy).__name__
    if re.match("fsdp|deepspeed|modelparallel", name, re.IGNORECASE):
        raise UserError(f"{name} splits a model over GPUs, which vqlab does not support: leave out --trainer.strategy")
