"""A ``vqlab`` that starts in milliseconds: each call is forked from a process that has everything imported.

    with warm_vqlab.serve() as command:
        subprocess.run([*command, "fit", ...])

The program that is called is this file. It hands its arguments, folder and output to the process that forks, and ends
with the status of the fork, which dies with it.
"""

import json
import os
import signal
import socket
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def serve():
    """Yield the command that is to be called."""
    import threading

    path = tempfile.mkdtemp() + "/socket"  # such a path must be short
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        server = os.fork()
        if not server:
            try:
                signal.signal(signal.SIGCHLD, signal.SIG_IGN)
                while True:
                    connection, _ = listener.accept()
                    message, descriptors, *_ = socket.recv_fds(connection, 1 << 20, 2)
                    if not os.fork():
                        threading.Thread(target=die_with, args=(connection,), daemon=True).start()
                        answer(connection, descriptors, *json.loads(message))
                    connection.close()
                    for descriptor in descriptors:
                        os.close(descriptor)
            finally:
                os._exit(1)
    try:
        yield [sys.executable, __file__, path]
    finally:
        os.kill(server, signal.SIGKILL)
        os.waitpid(server, 0)


def answer(connection, descriptors, arguments, folder, environ):
    """Run ``vqlab`` as if it had been started afresh, send its status, and end."""
    from tests.helpers.forks import run_vqlab

    output, *lock = descriptors
    os.chdir(folder)
    os.environ.update(environ)
    if lock:
        os.environ["VQLAB_RUN_LOCK"] = str(lock[0])
    status = run_vqlab(arguments, output)
    connection.sendall(bytes([status]))
    os._exit(status)


def die_with(connection):
    """Wait for the end of whoever called, and follow."""
    connection.recv(1)
    os.kill(os.getpid(), signal.SIGKILL)


def call(path, *arguments):
    """Let the process behind ``path`` fork one that runs ``vqlab``."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(path)
        message = json.dumps([arguments, str(Path.cwd()), dict(os.environ)]).encode()
        lock = os.environ.get("VQLAB_RUN_LOCK")  # of the sweep that has started this process
        socket.send_fds(connection, [message], [1, int(lock)] if lock else [1])
        status = connection.recv(1)
    sys.exit(status[0] if status else 1)


if __name__ == "__main__":
    call(*sys.argv[1:])
