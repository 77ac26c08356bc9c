"""SIGINT and SIGTERM: raised where they arrive, or remembered; a second Ctrl-C ends at once."""

import os
import signal
import time
from contextlib import suppress

import pytest

from tests.helpers.forks import fork, status_of
from vqlab.training import stop_signals
from vqlab.training.stop_signals import STOP_SIGNALS, Stopped


def receive(number, deferred):
    """Get a signal; return whether what follows it was done."""
    done = False
    with suppress(Stopped), STOP_SIGNALS.installed():
        STOP_SIGNALS.deferred = deferred
        os.kill(os.getpid(), number)
        done = True
    return done


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_is_raised_at_once_unless_it_is_deferred(number):
    before = signal.getsignal(number)
    assert not receive(number, deferred=False)
    assert receive(number, deferred=True)
    assert STOP_SIGNALS.asked == number
    assert signal.getsignal(number) == before


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_the_status_is_that_of_a_shell(number, status):
    assert Stopped(number).code == status


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
        (signal.SIGINT, signal.SIGINT, 2 * stop_signals.PAUSE, 130),
        (signal.SIGTERM, signal.SIGINT, 2 * stop_signals.PAUSE, 130),
        (signal.SIGTERM, signal.SIGTERM, 2 * stop_signals.PAUSE, 7),  # as of one who asks until it is done
        (signal.SIGINT, signal.SIGTERM, 0, 7),  # as of torchrun, which passes on what the process has got itself
        (signal.SIGINT, signal.SIGINT, 0, 7),
    ],
)
def test_a_second_ctrl_c_ends_at_once(first, second, pause, status):
    assert os.waitstatus_to_exitcode(status_of(fork(twice, first, second, pause))) == status


def ignored_in_a_worker():
    with STOP_SIGNALS.installed():
        worker = os.fork()
        if not worker:
            os.kill(os.getpid(), signal.SIGINT)
            os._exit(5)
        os._exit(os.waitstatus_to_exitcode(status_of(worker)))


def test_a_forked_worker_leaves_the_signal_to_the_process_that_trains():
    assert os.waitstatus_to_exitcode(status_of(fork(ignored_in_a_worker))) == 5
