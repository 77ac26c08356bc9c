"""How many processes a run has."""

from typing import Any

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
