"""Functions and ``vqlab`` in a fork of this process, which has imported everything already."""

import logging
import multiprocessing
import os
import socket
import sys
import tempfile
import traceback
from functools import partial

from lightning.pytorch.utilities import rank_zero_only


def fork(run, *arguments):
    """Start ``run(*arguments)``; return the id of the process, whose status is 0 if the function returns, else 1."""
    process = os.fork()
    if not process:
        status = 1
        try:
            run(*arguments)
            status = 0
        finally:
            os._exit(status)
    return process


def status_of(process):
    """Wait for the end of a process and return its status from ``os.waitpid``."""
    return os.waitpid(process, 0)[1]


class Forked(multiprocessing.get_context("fork").Process):
    """``vqlab ARGUMENTS`` in a started fork of this process; ``before()`` is called in it first."""

    def __init__(self, *arguments, before=lambda: None, **environ):
        super().__init__()
        self.arguments, self.before, self.environ = arguments, before, environ
        self.output = tempfile.TemporaryFile("w+")  # noqa: SIM115
        self.start()

    def run(self):
        from vqlab.cli.main import main

        self.before()
        os.environ.update(self.environ)
        for number in (1, 2):
            os.dup2(self.output.fileno(), number)
        sys.stdout, sys.stderr = (os.fdopen(number, "w", buffering=1, closefd=False) for number in (1, 2))
        for name in ("lightning.pytorch", "lightning.fabric"):
            logging.getLogger(name).addHandler(logging.StreamHandler(sys.stderr))
        status = 1
        try:
            main(self.arguments)
            status = 0
        except SystemExit as stopped:
            status = stopped.code if isinstance(stopped.code, int) else int(bool(stopped.code))
        except BaseException:
            traceback.print_exc()
        os._exit(status)

    def end(self, timeout=240):
        """Return exit status and output when the process has ended; kill it after ``timeout`` seconds."""
        self.join(timeout)
        self.kill()
        self.join()
        self.output.seek(0)
        return self.exitcode, self.output.read()


def on_two_ranks(*arguments):
    """Run ``vqlab`` on two devices of this machine, started as by torchrun; return both statuses and outputs."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    environ = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "GLOO_SOCKET_IFNAME": "lo", "WORLD_SIZE": "2"}
    environ["TORCHELASTIC_RUN_ID"] = "test"
    ranks = []
    for rank in (0, 1):
        # Lightning's rank_zero_only functions read the rank when they are imported.
        before = partial(setattr, rank_zero_only, "rank", rank)
        own = {"RANK": str(rank), "LOCAL_RANK": str(rank), **environ}
        ranks.append(Forked(*arguments, "--trainer.devices=2", before=before, **own))
    return [rank.end() for rank in ranks]
