"""How many processes a run has, and what each holds."""

import re
from typing import Any

import lightning
from lightning.fabric.plugins.environments import LightningEnvironment

from vqlab.errors import UserError

MAX_PROCESSES = 4096  # over all nodes; each is a whole interpreter, and Lightning starts as many as it is told


def num_devices(trainer: Any) -> int:
    """Return how many processes the Trainer options ask for, over all nodes."""
    import torch

    devices, nodes = trainer.get("devices", "auto"), int(trainer.get("num_nodes") or 1)
    if isinstance(devices, (list, tuple)):
        return len(devices) * nodes
    if devices in ("auto", -1, "-1"):
        cpu = trainer.get("accelerator") == "cpu"
        return (1 if cpu else max(1, torch.cuda.device_count())) * nodes
    if isinstance(devices, str) and "," in devices:
        return len([d for d in devices.split(",") if d.strip()]) * nodes
    return int(devices) * nodes if str(devices).isdigit() else nodes


def check_devices(trainer: Any) -> None:
    """Raise UserError if the Trainer options ask for more processes than anyone can mean."""
    if num_devices(trainer) > MAX_PROCESSES:
        raise UserError(
            f"trainer.devices {trainer['devices']} asks for more than {MAX_PROCESSES} processes: "
            "set --trainer.devices=1"
        )


def check_started(trainer: lightning.Trainer) -> None:
    """Raise UserError if torchrun or SLURM has started other than as many processes as the Trainer's options ask for.

    Lightning itself says nothing: a Trainer of four devices trains on one where SLURM has one task, and a Trainer of
    one device trains four times, into one run folder, where there are four.
    """
    environment = trainer._accelerator_connector.cluster_environment
    if isinstance(environment, LightningEnvironment):  # it starts them by itself
        return
    started, devices, nodes = environment.world_size(), trainer.num_devices, trainer.num_nodes
    if started != devices * nodes:
        raise UserError(
            f"{started} of {devices * nodes} processes started: --trainer.devices={devices} and "
            f"--trainer.num_nodes={nodes} must be torchrun's --nproc_per_node and --nnodes, or SLURM's "
            "--ntasks-per-node and --nodes with srun vqlab; without srun, unset SLURM_NTASKS"
        )


def refuse_sharding(strategy: Any) -> None:
    """Raise UserError if the model would be split over GPUs.

    Players that step by themselves ask for the gradients of their weights (``manual.collect``), which FSDP reduces in
    hooks that such a call never reaches; the average of the weights and their health are of whole weights as well.
    """
    name = strategy if isinstance(strategy, str) else type(strategy).__name__
    if re.match("fsdp|deepspeed|modelparallel", name, re.IGNORECASE):
        raise UserError(
            f"{name} splits a model over GPUs, which vqlab's models are not made for: leave out --trainer.strategy, "
            "and each of --trainer.devices=4 GPUs holds it whole (DDP)"
        )
