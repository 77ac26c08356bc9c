"""SIGINT and SIGTERM: raised on arrival, or recorded; a second Ctrl-C ends the process at once."""

import os
import signal
import time
from contextlib import suppress

import pytest

from tests.helpers.forks import fork, status_of
from vqlab.training.stop_signals import PAUSE, STOP_SIGNALS, Stopped


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_is_raised_at_once_unless_deferred(number):
    before = signal.getsignal(number)
    for deferred in (False, True):
        done = False
        with suppress(Stopped), STOP_SIGNALS.installed():
            STOP_SIGNALS.deferred = deferred
            os.kill(os.getpid(), number)
            done = True
        assert done == deferred
        assert STOP_SIGNALS.asked == number
    assert signal.getsignal(number) == before
    assert Stopped(number).code == 128 + number


def twice(first, second, pause):
    with STOP_SIGNALS.installed():
        STOP_SIGNALS.deferred = True
        os.kill(os.getpid(), first)
        time.sleep(pause)
        os.kill(os.getpid(), second)
        os._exit(7)


@pytest.mark.parametrize(
    ("first", "second", "pause", "status"),
    [
        (signal.SIGINT, signal.SIGINT, 2 * PAUSE, 130),
        (signal.SIGTERM, signal.SIGINT, 2 * PAUSE, 130),
        (signal.SIGTERM, signal.SIGTERM, 2 * PAUSE, 7),  # a scheduler repeats SIGTERM
        (signal.SIGINT, signal.SIGTERM, 0, 7),  # torchrun forwards a signal that the process also received
        (signal.SIGINT, signal.SIGINT, 0, 7),
    ],
)
def test_second_ctrl_c_ends_at_once(first, second, pause, status):
    assert os.waitstatus_to_exitcode(status_of(fork(twice, first, second, pause))) == status


def test_forked_worker_ignores_the_signal():
    with STOP_SIGNALS.installed():
        worker = fork(lambda: os.kill(os.getpid(), signal.SIGINT))
        assert status_of(worker) == 0
