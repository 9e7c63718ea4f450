"""A dispatcher that stands still, workers that users' code ends, requests without a worker."""

from __future__ import annotations

import os
import re
import signal
import threading

import numpy as np
import psutil
import pytest

from tests.test_supervisor import MODEL, World, sent, signalled, started
from tests.waiting import LIMIT, wait_for
from tfrunner import protocol as p
from tfrunner.client import Client
from tfrunner.processes import CONFIG_ERROR, LOAD_ERROR
from tfrunner.supervisor import events as e
from tfrunner.supervisor import silence
from tfrunner.supervisor.slots import WORKER, Slot
from tfrunner.supervisor.states import Phase
from tfrunner.testing import ServedClient, serve

ROW = np.ones((1, 2), "float32")
KILL = ("dispatcher", signal.SIGKILL)


# --- a dispatcher that stands still -------------------------------------------------------------


def pass_time(world: World, seconds: float, *happened: e.Event) -> list[e.Action]:
    """Let seconds pass in which something happens once each; return what was done."""
    done: list[e.Action] = []
    for _ in range(int(seconds)):
        done += world.step(*happened, after=1.0)
    return done


def answering() -> World:
    """Return a world whose dispatcher has answered."""
    world = World()
    world.step()
    world.step(world.status())
    return world


def test_a_dispatcher_that_says_nothing_is_killed_once_and_followed():
    """Its pid is killed; the next one starts when it is reaped, and has its time."""
    world = answering()
    assert signalled(pass_time(world, silence.LONGEST - 1)) == []
    assert signalled(pass_time(world, 30)) == [KILL]
    world.step(e.Exited("dispatcher", -9))
    assert started(world.step(after=0.2)) == ["dispatcher-2"]
    assert signalled(pass_time(world, silence.LONGEST_AT_START - 1)) == []
    assert signalled(pass_time(world, 5)) == [KILL]


@pytest.mark.parametrize(
    "word", [p.Status(1, {"models": {}, "workers": {}}), p.Welcome("e"), p.Fence("w", "it hangs")]
)
def test_a_dispatcher_that_says_anything_lives(word: p.Message):
    """Also where the answers to questions are late."""
    world = answering()
    assert KILL not in signalled(pass_time(world, 100, word))


def test_a_dispatcher_that_starts_slowly_is_waited_for():
    """Python comes from a slow disk, perhaps."""
    world = World()
    world.step()
    assert signalled(pass_time(world, silence.LONGEST_AT_START - 2)) == []


@pytest.mark.parametrize("seconds", [15.0, 3600.0])
def test_a_supervisor_that_stood_still_itself_kills_nobody(seconds: float):
    """SIGSTOP and SIGCONT, or a machine that slept: the dispatcher may just not have its turn."""
    world = answering()
    for _ in range(5):
        assert signalled(world.step(after=seconds)) == []
        pass_time(world, 3)
        world.step(world.status())
    assert signalled(pass_time(world, silence.LONGEST - 1)) == []


def test_a_dispatcher_that_is_told_to_end_has_its_grace():
    """It answers no questions while it closes."""
    world = answering()
    world.step(e.StopAsked(signal.SIGTERM))
    world.step(e.Exited("api-0", 0))
    world.step(world.status(), after=0.1)
    assert signalled(world.step(e.Exited("worker-0", 0))) == [("dispatcher", signal.SIGTERM)]
    assert world.core.phase is Phase.ENDING
    assert signalled(pass_time(world, 20)) == []


def child(server: ServedClient, word: str) -> psutil.Process:
    """Return the server's process of one module."""
    found = psutil.Process(server.pid).children()
    return next(each for each in found if each.cmdline()[2:3] == [word])


def test_a_dispatcher_that_is_stopped_is_replaced_and_calls_go_on():
    """The call waits on its gateway for the next dispatcher."""
    with serve("echo", echo=True) as server:
        server.predict("echo", ROW)
        first = child(server, "tfrunner.dispatcher")
        first.suspend()
        answer = server.predict("echo", ROW, timeout=LIMIT)
        np.testing.assert_array_equal(answer, ROW)
        assert not psutil.pid_exists(first.pid)
        assert re.search(
            "dispatcher-1 is killed: no word of it for 1[01] s", server.log.read_text()
        )


def test_a_server_that_was_stopped_as_a_whole_keeps_its_processes():
    """As after a suspended machine, for longer than a dispatcher may be silent."""
    with serve("echo", echo=True) as server:
        server.predict("echo", ROW)
        everybody = [psutil.Process(server.pid), *psutil.Process(server.pid).children()]
        for each in everybody:
            each.suspend()
        assert not threading.Event().wait(silence.LONGEST + 2.0)  # it is the time that is tested
        for each in everybody:
            each.resume()
        np.testing.assert_array_equal(server.predict("echo", ROW, timeout=LIMIT), ROW)
        before = server.status()["uptime"]
        wait_for(lambda: server.status()["uptime"] > before + 2.0)
        assert psutil.Process(server.pid).children() == everybody[1:]


# --- exit codes ---------------------------------------------------------------------------------


@pytest.mark.parametrize("code", [LOAD_ERROR, CONFIG_ERROR])
def test_a_worker_that_served_and_exits_can_be_loaded(code: int):
    """A method called `os._exit(3)`: the model is not to blame, and the place not in trouble."""
    slot = Slot(WORKER, "w", model=MODEL)
    slot.start(0.0)
    slot.ready()
    slot.exit(code, 5.0, jitter=lambda: 0.0)
    assert slot.trouble == ""
    assert slot.start_at == pytest.approx(5.1)

    slot.start(5.1)
    slot.exit(code, 6.0, jitter=lambda: 0.0)
    assert "cannot be loaded" in slot.trouble
    assert slot.start_at == pytest.approx(36.0)


# --- the end ------------------------------------------------------------------------------------


def emptying() -> World:
    """Return a world whose api processes have ended."""
    world = answering()
    world.step(e.StopAsked(signal.SIGTERM))
    world.step(e.Exited("api-0", 0))
    assert world.core.phase is Phase.EMPTYING
    return world


def with_open(status: p.Status, count: int | None) -> p.Status:
    """Return a state that says how many requests are open; None: it does not say."""
    if count is not None:
        status.state["open_requests"] = count
    return status


def test_the_end_waits_for_a_request_that_is_neither_queued_nor_held():
    """Its worker is dead: it waits to be run again."""
    world = emptying()
    for count, expected in ((2, []), (1, []), (0, [("worker-0", signal.SIGTERM)])):
        assert signalled(world.step(with_open(world.status(), count), after=0.1)) == expected


def test_a_dispatcher_that_counts_no_open_requests_is_believed():
    """The key came later than the others."""
    world = emptying()
    actions = world.step(with_open(world.status(), None), after=0.1)
    assert signalled(actions) == [("worker-0", signal.SIGTERM)]


def test_a_dispatcher_that_comes_while_the_end_waits_for_it_is_told_to_drain():
    """A little later, so that gateways send it what the one before did not answer."""
    world = emptying()
    world.step(e.Exited("dispatcher", -9))
    assert started(world.step(after=0.2)) == ["dispatcher-2"]
    ignorant = world.status()
    ignorant.state["draining"] = False
    assert sent(world.step(ignorant, after=1.0)) == []
    assert sent(world.step(ignorant, after=1.0)) == [p.Drain()]
    actions = world.step(world.status(), after=0.1)
    assert signalled(actions) == [("worker-0", signal.SIGTERM)]


def test_a_request_whose_worker_died_is_answered_before_the_end():
    """A kill -9 of the busy worker, and SIGTERM at once: it is run again by the next one."""
    with serve("echo", echo=True) as server:
        log = server.log
        answers: list[object] = []

        def call() -> None:
            with Client(server.address) as client:
                answers.append(client.predict("echo", ROW, method="slow", timeout=LIMIT))

        calling = threading.Thread(target=call)
        calling.start()
        (worker,) = wait_for(
            lambda: [w for w in server.status()["workers"].values() if w["running"]]
        )
        os.kill(worker["pid"], signal.SIGKILL)
        os.kill(server.pid, signal.SIGTERM)
        calling.join(LIMIT)
        np.testing.assert_array_equal(answers[0], ROW)
        wait_for(lambda: "stopped: every process has ended" in log.read_text())
