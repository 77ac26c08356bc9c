"""Which processors and processes a run has, what each holds, and in which precision it calculates."""

import difflib
import platform
import re
from typing import Any

import lightning
import torch
from lightning.fabric.plugins.environments import LightningEnvironment
from lightning.pytorch.accelerators import AcceleratorRegistry
from lightning.pytorch.strategies import StrategyRegistry
from lightning.pytorch.utilities import rank_zero_info

from vqlab.errors import UserError

MAX_PROCESSES = 4096  # over all nodes; each is a whole interpreter, and Lightning starts as many as it is told


def num_devices(trainer: Any) -> int:
    """Return how many processes the Trainer options ask for, over all nodes."""
    devices, nodes = trainer.get("devices", "auto"), int(trainer.get("num_nodes") or 1)
    if isinstance(devices, (list, tuple)):
        return len(devices) * nodes
    if devices in ("auto", -1, "-1"):
        cpu = trainer.get("accelerator") == "cpu"
        return (1 if cpu else max(1, torch.cuda.device_count())) * nodes
    if isinstance(devices, str) and "," in devices:
        return len([d for d in devices.split(",") if d.strip()]) * nodes
    return int(devices) * nodes if str(devices).isdigit() else nodes


def find_accelerator(trainer: Any) -> str:
    """Return what ``--trainer.accelerator`` means on this machine: cpu, cuda, mps, ..., or "" for an object.

    Raises:
        UserError: If there is no such accelerator.
    """
    name, known = trainer.get("accelerator", "auto"), ("auto", "cpu", "gpu", *sorted(AcceleratorRegistry))
    if not isinstance(name, str):
        return ""
    if name not in known:
        names = dict.fromkeys(known)
        close = difflib.get_close_matches(name, names, n=1, cutoff=0.75) or ["auto"]
        raise UserError(
            f"--trainer.accelerator must be one of {', '.join(names)}, got {name!r}: "
            f"set --trainer.accelerator={close[0]}"
        )
    for kind in {"auto": ("tpu", "mps", "cuda", "cpu"), "gpu": ("mps", "cuda")}.get(name, (name,)):
        if AcceleratorRegistry[kind]["accelerator"].is_available():
            return kind
    reason = "" if torch.version.cuda or name == "mps" else f" (PyTorch {torch.__version__} is built without CUDA)"
    what = {"tpu": "TPU", "cpu": "CPU"}.get(name, "GPU")
    raise UserError(
        f"--trainer.accelerator={name}: PyTorch finds no {what} on this machine{reason}: set --trainer.accelerator=auto"
    )


def check_devices(trainer: Any) -> None:
    """Raise UserError if the Trainer options ask for devices that do not exist, or for far too many processes."""
    kind, devices = find_accelerator(trainer), trainer.get("devices", "auto")
    if num_devices(trainer) > MAX_PROCESSES:
        raise UserError(
            f"trainer.devices {devices} asks for more than {MAX_PROCESSES} processes: set --trainer.devices=1"
        )
    if kind not in ("cpu", "cuda", "mps") or devices == "auto" or (kind != "cpu" and str(devices) == "-1"):
        return
    count = {"cpu": MAX_PROCESSES, "cuda": torch.cuda.device_count(), "mps": 1}[kind]
    indices = devices.split(",") if isinstance(devices, str) and "," in devices else devices
    try:
        if isinstance(indices, (list, tuple)):
            chosen = [int(index) for index in indices if str(index).strip()]
            fits = kind != "cpu" and chosen and all(0 <= index < count for index in chosen)
        else:
            fits = 1 <= int(devices) <= count
    except ValueError:
        fits = False
    if not fits:
        rule = "the number of processes, at least 1, on a CPU"
        if kind != "cpu":
            rule = f"at most {count}, the number of GPUs here, or a list of their indices from 0 to {count - 1}"
        raise UserError(f"--trainer.devices must be {rule}, got {devices}: set --trainer.devices=1")


def has_bf16_instructions() -> bool:
    """Return whether the CPU calculates in bfloat16; others emulate it, up to 30 times slower than float32."""
    if platform.machine().lower() in ("arm64", "aarch64"):
        return torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return torch.cpu._is_avx512_bf16_supported()


def choose_precision(trainer: Any) -> None:
    """Replace a mixed precision that only slows down this run, which is on a CPU, and print so."""
    given = str(trainer.get("precision"))
    if find_accelerator(trainer) != "cpu":
        return
    if has_bf16_instructions():
        if given in ("16", "16-mixed"):
            trainer["precision"] = "bf16-mixed"
            rank_zero_info(f"precision {given} needs a GPU: using bf16-mixed")
        return
    slow = f"precision {given} is slow on this CPU, which has no bf16 instructions"
    if given in ("16", "16-mixed", "bf16", "bf16-mixed"):
        trainer["precision"] = "32-true"
        rank_zero_info(f"{slow}: using 32-true")
    elif given == "bf16-true":
        rank_zero_info(f"{slow}: --trainer.precision=32-true is faster")


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


def check_strategy(strategy: Any) -> None:
    """Raise UserError if there is no such strategy, or if it would split the model over GPUs.

    Players that step by themselves ask for the gradients of their weights (``manual.collect``), which FSDP reduces in
    hooks that such a call never reaches; the average of the weights and their health are of whole weights as well.
    """
    name = strategy if isinstance(strategy, str) else type(strategy).__name__
    if re.match("fsdp|deepspeed|modelparallel", name, re.IGNORECASE):
        raise UserError(
            f"{name} splits a model over GPUs, which vqlab's models are not made for: leave out --trainer.strategy, "
            "and each of --trainer.devices=4 GPUs holds it whole (DDP)"
        )
    known = ["auto", *StrategyRegistry.available_strategies()]
    if isinstance(strategy, str) and strategy not in known:
        close = difflib.get_close_matches(name, known, n=1) or ["auto"]
        raise UserError(f"there is no strategy {name!r}: set --trainer.strategy={close[0]}")
