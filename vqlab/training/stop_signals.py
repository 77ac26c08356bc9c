"""SIGINT (Ctrl-C) and SIGTERM: a training stops after its batch with a checkpoint; other commands stop at once."""

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

PAUSE = 0.2  # seconds; timeout, torchrun and others send one signal twice within milliseconds


class Stopped(SystemExit):
    """Exit after a signal, with status 128 + its number, as in a shell: 130 for SIGINT, 143 for SIGTERM."""

    def __init__(self, number: int) -> None:
        super().__init__(128 + number)


class StopSignals:
    """Raise :class:`Stopped` when a signal arrives, or only record it in ``asked`` if ``deferred``.

    A second Ctrl-C always ends the process at once.
    """

    def __init__(self) -> None:
        self.asked = 0  # number of the signal
        self.deferred = False
        self._process, self._time = 0, 0.0

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Handle the signals inside the block; raise a recorded signal at its end."""
        self.asked, self.deferred, self._process = 0, False, os.getpid()
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGCHLD)
        before = {number: signal.getsignal(number) for number in numbers}
        for number in numbers[:2]:
            signal.signal(number, self._receive)
        try:
            yield
            if self.asked:
                raise Stopped(self.asked)
        finally:
            for number, handler in before.items():
                signal.signal(number, signal.SIG_DFL if handler is None else handler)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._process:
            return  # a forked worker, which ends with its parent
        if self.asked:
            if number == signal.SIGINT and time.monotonic() - self._time > PAUSE:
                os._exit(128 + number)
            return
        self.asked, self._time = number, time.monotonic()
        if not self.deferred:
            raise Stopped(number)
        # Workers of a DataLoader may get the signal as well; torch would raise an error in the middle of the batch.
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        if os.environ.get("LOCAL_RANK", "0") == "0":  # os.write, because the signal may have interrupted print
            name = signal.Signals(number).name
            os.write(2, f"\n{name}: stopping as soon as the run can be resumed; Ctrl-C ends it at once\n".encode())


STOP_SIGNALS = StopSignals()
