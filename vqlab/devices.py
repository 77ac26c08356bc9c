"""How many processes a run has, and what each holds."""

import re
from typing import Any

import lightning

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
    """Raise UserError if there are not as many processes as the Trainer's options ask for.

    SLURM starts them itself, as many as there are tasks. Where there is one task, a Trainer that waits for none would
    train on one GPU, and say nothing.
    """
    wanted = trainer.num_devices * trainer.num_nodes
    if trainer.world_size != wanted:
        raise UserError(
            f"{trainer.world_size} of {wanted} processes started: under SLURM set --ntasks-per-node="
            f"{trainer.num_devices} and --nodes={trainer.num_nodes} and call srun vqlab, or unset SLURM_NTASKS"
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
