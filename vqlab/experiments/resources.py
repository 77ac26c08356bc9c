"""Rows that run at once share GPUs and cores evenly."""

import os
import subprocess


def shares(jobs: int) -> list[dict[str, str]]:
    """Return, for each of ``jobs`` rows that run at once, the environment that tells it its GPUs and cores.

    More rows than GPUs take turns at them. One row alone has everything, and threads are left alone where
    ``OMP_NUM_THREADS`` says how many.
    """
    if jobs == 1:
        return [{}]
    threads = str(max(1, (os.cpu_count() or 1) // jobs))
    cores = {} if "OMP_NUM_THREADS" in os.environ else {"OMP_NUM_THREADS": threads}
    gpus = visible_gpus()
    each = max(1, len(gpus) // jobs)
    found = []
    for place in range(jobs):
        first = place * each % max(1, len(gpus))
        mine = ",".join(gpus[first : first + each])
        found.append({**cores, "CUDA_VISIBLE_DEVICES": mine} if gpus else cores)
    return found


def visible_gpus() -> list[str]:
    """Return the GPUs that this process may use, without asking torch."""
    if (chosen := os.environ.get("CUDA_VISIBLE_DEVICES")) is not None:
        return [gpu.strip() for gpu in chosen.split(",") if gpu.strip()]
    try:
        query = ["nvidia-smi", "--query-gpu=index", "--format=csv,noheader"]
        return subprocess.run(query, capture_output=True, text=True, timeout=30, check=True).stdout.split()
    except (OSError, subprocess.SubprocessError):
        return []
