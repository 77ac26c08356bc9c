"""Functions and ``vqlab`` in a process of their own that has everything imported, because it is a fork of this one."""

import logging
import os
import signal
import socket
import sys
import tempfile
import time
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
    """Wait for the end of a process and return how it ended, as ``os.waitpid`` does."""
    return os.waitpid(process, 0)[1]


class Forked:
    """``vqlab ARGUMENTS`` as a fork of this process, with methods of ``Popen``; ``before()`` is called in it first."""

    def __init__(self, *arguments, before=lambda: None, **environ):
        self.returncode = None
        self.output = tempfile.TemporaryFile("w+")  # noqa: SIM115
        self.pid = os.fork()
        if not self.pid:
            before()
            os.environ.update(environ)
            os._exit(run_vqlab(arguments, self.output.fileno()))

    def poll(self):
        if self.returncode is None and (ended := os.waitpid(self.pid, os.WNOHANG))[0]:
            self.returncode = os.waitstatus_to_exitcode(ended[1])
        return self.returncode

    def kill(self):
        os.kill(self.pid, signal.SIGKILL)

    def communicate(self, timeout=240):
        """Return the output when the process has ended, and None; kill it after ``timeout`` seconds."""
        begun = time.monotonic()
        while self.poll() is None:
            if time.monotonic() - begun > timeout:
                self.kill()
            time.sleep(0.01)
        self.output.seek(0)
        return self.output.read(), None


def run_vqlab(arguments, output):
    """Run ``vqlab`` as if this process had been started for it; return its exit status."""
    from vqlab.cli.main import main

    os.dup2(output, 1)
    os.dup2(output, 2)
    sys.stdout, sys.stderr = (os.fdopen(number, "w", buffering=1, closefd=False) for number in (1, 2))
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).addHandler(logging.StreamHandler(sys.stderr))
    try:
        main(arguments)
    except SystemExit as stopped:
        return stopped.code if isinstance(stopped.code, int) else int(bool(stopped.code))
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


def on_two_ranks(*arguments):
    """Run ``vqlab`` on two devices of this machine, started as torchrun does; return both statuses and outputs."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    environ = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "GLOO_SOCKET_IFNAME": "lo", "WORLD_SIZE": "2"}
    environ["TORCHELASTIC_RUN_ID"] = "test"
    ranks = []
    for rank in (0, 1):
        # Lightning's functions "on rank 0 only" read the rank when they are imported.
        before = partial(setattr, rank_zero_only, "rank", rank)
        own = {"RANK": str(rank), "LOCAL_RANK": str(rank), **environ}
        ranks.append(Forked(*arguments, "--trainer.devices=2", before=before, **own))
    outputs = [rank.communicate()[0] for rank in ranks]
    return [(rank.returncode, output) for rank, output in zip(ranks, outputs, strict=True)]
