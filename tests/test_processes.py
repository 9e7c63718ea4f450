"""What every process does about itself: signals, and its log."""

from __future__ import annotations

import logging
import os
import select
import signal
from collections.abc import Iterator
from typing import Any

import pytest

from tfrunner.processes import StopSignals, configure_logging


@pytest.fixture(autouse=True)
def handlers() -> Iterator[dict[int, Any]]:
    """Give every signal its handler back."""
    numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD)
    before = {number: signal.getsignal(number) for number in numbers}
    if before[signal.SIGHUP] == signal.SIG_IGN:  # the tests themselves run under nohup
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield {number: signal.getsignal(number) for number in numbers}
    for number, handler in before.items():
        signal.signal(number, handler)


def is_readable(signals: StopSignals) -> bool:
    """Return whether whoever waits would wake."""
    return bool(select.select([signals], [], [], 0)[0])


def test_stop_signals_wake_and_are_told_once(handlers):
    """In their order, until they are taken; the count stays."""
    with StopSignals((signal.SIGTERM, signal.SIGHUP)) as signals:
        assert (signals.take(), signals.count, is_readable(signals)) == ([], 0, False)
        os.kill(os.getpid(), signal.SIGHUP)
        os.kill(os.getpid(), signal.SIGTERM)
        assert is_readable(signals)
        assert signals.take() == [signal.SIGHUP, signal.SIGTERM]
        assert (signals.take(), signals.count, is_readable(signals)) == ([], 2, False)
    assert signal.getsignal(signal.SIGHUP) == handlers[signal.SIGHUP]


def test_wakers_only_wake():
    """The end of a child is no reason to stop."""
    with StopSignals(wakers=(signal.SIGCHLD,)) as signals:
        os.kill(os.getpid(), signal.SIGCHLD)
        assert is_readable(signals)
        assert (signals.take(), signals.count) == ([], 0)


def test_an_ignored_signal_stays_ignored_sigterm_apart():
    """As under nohup, or in the background of a shell."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    with StopSignals((signal.SIGTERM, signal.SIGHUP)) as signals:
        os.kill(os.getpid(), signal.SIGHUP)
        os.kill(os.getpid(), signal.SIGTERM)
        assert signals.take() == [signal.SIGTERM]


def test_stop_signals_need_with():
    """Otherwise nothing would ever wake."""
    with pytest.raises(RuntimeError, match="with"):
        StopSignals().fileno()


def test_a_process_may_change_its_name_in_the_log(capfd):
    """A spare that becomes a worker; the first name's stream is closed."""
    before, level = logging.root.handlers[:], logging.root.level
    try:
        configure_logging("info", "spare-1")
        logging.info("one")
        configure_logging("info", "100%-worker")
        logging.info("two")
    finally:
        for handler in set(logging.root.handlers) - set(before):
            handler.close()
        logging.root.handlers[:] = before
        logging.root.setLevel(level)
    lines = capfd.readouterr().err.splitlines()
    assert [line.split(" ", 1)[1] for line in lines] == ["INFO spare-1 one", "INFO 100%-worker two"]
