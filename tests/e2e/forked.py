"""``vqlab`` in forks of the test's process, which has imported torch already: a new process takes seconds for it."""

import multiprocessing
import multiprocessing.connection
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time

from lightning.fabric.utilities.rank_zero import rank_zero_only

from vqlab.cli import main

FORK = multiprocessing.get_context("fork")


class ForkedCommand:
    """One fork for each of ``--trainer.devices``; what tests use of ``subprocess.Popen``, with stderr in stdout."""

    def __init__(self, args: list[str], environ: dict[str, str]) -> None:
        devices = [arg.partition("=")[2] for arg in args if arg.startswith("--trainer.devices=")]
        world = int(devices[-1]) if devices else 1
        if world > 1:  # told where to meet, Lightning launches no ranks of its own
            environ = {**environ, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "NODE_RANK": "0"}
            environ["WORLD_SIZE"] = str(world)
        self.returncode: int | None = None
        self.output = tempfile.TemporaryFile()  # noqa: SIM115  a pipe that nobody reads would fill up
        self.ranks = []
        for rank in range(world):
            own = {**environ, "LOCAL_RANK": str(rank)} if world > 1 else environ
            self.ranks.append(FORK.Process(target=run, args=(args, own, rank, self.output.fileno())))
            self.ranks[-1].start()

    def poll(self) -> int | None:
        """Return the exit status once all ranks have ended; where one has failed, end the others."""
        codes = [rank.exitcode for rank in self.ranks]
        failures = [code for code in codes if code]
        if self.returncode is None and (failures or None not in codes):
            self.returncode = failures[0] if failures else 0
            self.kill()
            for rank in self.ranks:
                rank.join()
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        end = time.monotonic() + (timeout or 300)
        while self.poll() is None:
            if time.monotonic() > end:
                raise subprocess.TimeoutExpired("vqlab", timeout or 300)
            running = [rank.sentinel for rank in self.ranks if rank.exitcode is None]
            multiprocessing.connection.wait(running, end - time.monotonic())
        return self.returncode

    def communicate(self, timeout: float | None = None) -> tuple[str, None]:
        self.wait(timeout)
        self.output.seek(0)
        return self.output.read().decode(), None

    def send_signal(self, number: int) -> None:
        for rank in self.ranks:
            if rank.exitcode is None:
                os.kill(rank.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def run(args: list[str], environ: dict[str, str], rank: int, output: int) -> None:
    """What a new process would do: its own environment, path and output, then the command line."""
    os.environ.update(environ)
    sys.path[:0] = environ.get("PYTHONPATH", "").split(os.pathsep) if "PYTHONPATH" in environ else []
    rank_zero_only.rank = rank  # Lightning reads it from the environment when it is imported
    os.dup2(output, 1)
    os.dup2(output, 2)
    sys.stdout, sys.stderr = (os.fdopen(stream, "w", buffering=1, closefd=False) for stream in (1, 2))
    main(args)


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]
