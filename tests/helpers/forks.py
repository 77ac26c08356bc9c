"""Functions in a process of their own that has everything imported, because it is a fork of this one."""

import os
import signal
import subprocess
import sys
from contextlib import nullcontext


def fork(run, *arguments, output=None):
    """Start ``run(*arguments)``, its output going to the file ``output``; return the id of the process.

    Its status is 0 if the function returns, else 1.
    """
    process = os.fork()
    if not process:
        status = 1
        try:
            with output.open("w", buffering=1) if output else nullcontext(sys.stdout) as sys.stdout:
                run(*arguments)
            status = 0
        finally:
            os._exit(status)
    return process


def status_of(process):
    """Wait for the end of a process and return how it ended, as ``os.waitpid`` says it."""
    return os.waitpid(process, 0)[1]


def stop(process):
    """Stop a process, so that it starts no others, and return the ids of those that it has started."""
    os.kill(process, signal.SIGSTOP)
    children = subprocess.run(["ps", "-o", "pid=", "--ppid", str(process)], capture_output=True, text=True)
    return [*map(int, children.stdout.split())]
