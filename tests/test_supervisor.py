"""The supervisor's rules in virtual time: no process, no socket, no waiting."""

from __future__ import annotations

import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tfrunner import protocol as p
from tfrunner.config import (
    ApiConfig,
    DispatcherConfig,
    ServedModel,
    ServerConfig,
    WorkerConfig,
    to_argument,
)
from tfrunner.options import RunnableSource
from tfrunner.processes import CONFIG_ERROR, LOAD_ERROR
from tfrunner.supervisor import events as e
from tfrunner.supervisor.core import Core
from tfrunner.supervisor.crew import Addresses, Crew
from tfrunner.supervisor.placement import Demand, place
from tfrunner.supervisor.slots import API, DISPATCHER, SPARE, WORKER, Slot, spare_for
from tfrunner.supervisor.states import CHILD_MOVES, ChildState, Phase, move
from tfrunner.supervisor.supervisor import write_parameters

MODEL = "m:1"


class World:
    """A core and its processes, which do nothing but end when told to."""

    def __init__(self, *, workers: Sequence[str] = (MODEL,), **options: Any) -> None:
        self.slots = [Slot(DISPATCHER, "dispatcher"), Slot(API, "api-0")]
        self.slots += [Slot(WORKER, f"worker-{n}", model=model) for n, model in enumerate(workers)]
        self.core = Core(self.slots, jitter=lambda: 0.0, **{"grace": 30.0, **options})
        self.now = 0.0
        self.asked = 0
        self.ready: set[str] = set()

    def step(self, *happened: e.Event, after: float = 0.0) -> list[e.Action]:
        """Let things happen, then return what is to be done, hellos and asks left out."""
        self.now += after
        for event in happened:
            self.core.handle(event, self.now)
        actions = self.core.step(self.now)
        for action in actions:
            if isinstance(action, e.Send) and isinstance(action.message, p.Ask):
                self.asked = action.message.id
        regular = (p.Ask, p.SupervisorHello)
        return [a for a in actions if not isinstance(getattr(a, "message", None), regular)]

    def status(self, *, reason: str = "", queued: int = 0, running: int = 0) -> p.Status:
        """Return the dispatcher's answer to the latest Ask."""
        workers = {name: {"state": "ready", "running": running, "staged": 0} for name in self.ready}
        model = {"reason": reason, "queued_requests": queued, "state": "loading"}
        draining = self.core.phase is Phase.EMPTYING
        state = {"models": {MODEL: model}, "workers": workers, "draining": draining}
        return p.Status(self.asked, state)


def started(actions: list[e.Action]) -> list[str]:
    """Return the names of the processes to start."""
    return [action.process for action in actions if isinstance(action, e.Start)]


def signalled(actions: list[e.Action]) -> list[tuple[str, int]]:
    """Return the signals to send, by slot."""
    return [(action.slot, action.signal) for action in actions if isinstance(action, e.Signal)]


def sent(actions: list[e.Action]) -> list[p.Message]:
    """Return the messages to the dispatcher, regular ones left out."""
    return [action.message for action in actions if isinstance(action, e.Send)]


def test_everything_starts_at_once():
    """The start order does not matter, so nothing waits."""
    assert started(World().step()) == ["dispatcher-1", "api-0-1", "worker-0-1"]


def test_what_dies_is_started_again_under_a_new_name():
    """A process name is never used twice: late messages of the old one fit nobody."""
    world = World()
    world.step()
    assert started(world.step(e.Exited("api-0", 1))) == []
    assert started(world.step(after=0.1)) == ["api-0-2"]


def test_restarts_back_off_and_never_wait_longer_than_ten_seconds():
    """Each death in a row doubles the wait."""
    world, waits = World(), []
    world.step()
    for _ in range(9):
        world.step(e.Exited("api-0", 1))
        waits.append(world.slots[1].start_at - world.now)
        assert started(world.step(after=waits[-1])) != []
    assert waits == pytest.approx([0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 10.0, 10.0])


def test_a_long_life_forgives_earlier_deaths():
    """A process that lived for half a minute starts again at once."""
    world = World()
    world.step()
    for _ in range(4):
        world.step(e.Exited("api-0", 1))
        world.step(after=10.0)
    world.step(e.Exited("api-0", 1), after=30.0)
    assert world.slots[1].start_at - world.now == pytest.approx(0.1)


def test_jitter_lengthens_the_wait():
    """Many that die together do not start together."""
    slot = Slot(WORKER, "w", model=MODEL)
    slot.start(0.0)
    slot.exit(1, 0.0, jitter=lambda: 1.0)
    assert slot.start_at == pytest.approx(0.12)


def test_the_dispatcher_hears_of_a_reaped_worker_by_its_process_name():
    """Only after waitpid: what the worker held may then run elsewhere."""
    world = World()
    world.step()
    assert sent(world.step(e.Exited("worker-0", -9))) == [p.WorkerGone("worker-0-1", "signal 9")]
    assert sent(world.step(e.Exited("api-0", -9))) == []


def test_a_fenced_worker_is_killed_and_reported_once_reaped():
    """Fence, kill -9, waitpid, WorkerGone: in this order."""
    world = World()
    world.step()
    fenced = world.step(p.Fence("worker-0-1", "it hangs"))
    assert signalled(fenced) == [("worker-0", signal.SIGKILL)]
    assert sent(fenced) == []
    assert sent(world.step(e.Exited("worker-0", -9))) == [p.WorkerGone("worker-0-1", "it hangs")]
    assert started(world.step(after=0.2)) == ["worker-0-2"]


@pytest.mark.parametrize("name", ["worker-0-0", "worker-0-7", "nobody"])
def test_a_fence_for_a_worker_that_is_gone_is_answered_at_once(name):
    """The dispatcher must not wait for ever, and the next process must not be hit."""
    world = World()
    world.step()
    actions = world.step(p.Fence(name, "it hangs"))
    assert signalled(actions) == []
    assert [type(message) for message in sent(actions)] == [p.WorkerGone]


def test_a_model_that_cannot_be_loaded_is_marked_and_retried_slowly():
    """Exit code 3: the dispatcher's reason is used, and the next try is half a minute away."""
    world = World()
    world.step()
    world.step(e.Exited("worker-0", LOAD_ERROR))
    told = sent(world.step(world.status(reason="no such file")))
    assert told == [p.ModelUnavailable(MODEL, "no such file")]
    assert sent(world.step(world.status(reason="no such file"), after=1.0)) == []
    assert started(world.step(after=28.0)) == []
    assert started(world.step(after=1.0)) == ["worker-0-2"]


def test_an_older_status_does_not_speak_for_a_later_death():
    """The reason comes with the first Status that was asked for after the death."""
    world = World()
    world.step()
    before = world.status()
    world.core.handle(e.Exited("worker-0", LOAD_ERROR), world.now)
    assert sent(world.step(before)) == [p.WorkerGone("worker-0-1", "exit code 3")]
    assert sent(world.step(world.status(reason="late"))) == [p.ModelUnavailable(MODEL, "late")]


def test_a_model_that_serves_again_is_taken_back():
    """Once a worker is ready the reason goes."""
    world = World()
    world.step()
    world.step(e.Exited("worker-0", LOAD_ERROR))
    world.step(world.status(reason="no such file"))
    world.step(after=30.0)
    world.ready.add("worker-0-2")
    assert sent(world.step(world.status())) == [p.ModelUnavailable(MODEL, "")]


def test_a_model_with_one_good_worker_is_not_marked():
    """Another worker of the model may still serve it."""
    world = World(workers=(MODEL, MODEL))
    world.step()
    world.step(e.Exited("worker-0", LOAD_ERROR))
    assert sent(world.step(world.status())) == []


def test_a_worker_that_always_dies_before_it_is_ready_marks_its_model():
    """Five deaths in a row: callers get a reason instead of waiting."""
    world = World()
    world.step()
    for _ in range(5):
        assert sent(world.step(world.status())) == []
        world.step(e.Exited("worker-0", -11))
        world.step(after=10.0)
    (told,) = sent(world.step(world.status()))
    assert isinstance(told, p.ModelUnavailable)
    assert "died 5 times" in told.reason


def test_deaths_of_a_worker_that_was_ready_mark_nothing():
    """Poison requests kill a good worker; its model stays available."""
    world = World()
    world.step()
    for start in range(1, 9):
        world.ready = {f"worker-0-{start}"}
        world.step(world.status())
        world.step(e.Exited("worker-0", -11))
        world.step(after=10.0)
    assert sent(world.step(world.status())) == []


def test_strict_ends_the_server_where_a_model_cannot_be_served():
    """With --strict the exit code says so."""
    world = World(strict=True)
    world.step()
    world.step(e.Exited("worker-0", LOAD_ERROR))
    actions = world.step(world.status(reason="no such file"))
    assert signalled(actions) == [("api-0", signal.SIGTERM)]
    assert world.core.exit_code == 1


def test_a_process_that_cannot_run_with_its_configuration_ends_the_server():
    """A Service that cannot be imported is not started again and again."""
    world = World()
    world.step()
    world.step(e.Exited("api-0", CONFIG_ERROR))
    assert world.core.phase is Phase.EMPTYING
    assert world.core.exit_code == 1


@pytest.mark.parametrize("code", [CONFIG_ERROR, -9])
def test_the_end_does_not_wait_for_a_dispatcher_that_is_gone(code):
    """Nothing is queued in a process that is not there."""
    world = World()
    world.step()
    world.step(e.StopAsked(signal.SIGTERM))
    assert started(world.step(e.Exited("dispatcher", code))) == []
    actions = world.step(e.Exited("api-0", 0))
    assert (signalled(actions), sent(actions)) == ([("worker-0", signal.SIGTERM)], [])


def test_a_new_dispatcher_is_told_what_the_old_one_knew():
    """Deaths and unavailable models are said again to a new epoch."""
    world = World()
    world.step(p.Welcome("one"))
    world.step(e.Exited("worker-0", LOAD_ERROR))
    world.step(world.status(reason="no such file"))
    gone = p.WorkerGone("worker-0-1", "exit code 3")
    assert sent(world.step(p.Welcome("two"))) == [gone]
    world.step(after=1.0)
    assert sent(world.step(world.status(reason="no such file"))) == [
        p.ModelUnavailable(MODEL, "no such file")
    ]
    assert sent(world.step(p.Welcome("two"))) == []


def test_the_end_goes_from_the_door_inwards():
    """Api processes drain, the dispatcher empties, the workers leave it, then it ends."""
    world = World()
    world.step()
    first = world.step(e.StopAsked(signal.SIGTERM))
    assert any(isinstance(action, e.CloseListener) for action in first)
    assert signalled(first) == [("api-0", signal.SIGTERM)]

    emptying = world.step(e.Exited("api-0", 0))
    assert (signalled(emptying), sent(emptying)) == ([], [p.Drain()])

    world.ready.add("worker-0-1")
    assert signalled(world.step(world.status(queued=1))) == []
    assert signalled(world.step(world.status(running=1))) == []
    assert signalled(world.step(world.status())) == [("worker-0", signal.SIGTERM)]

    assert signalled(world.step(e.Exited("worker-0", 0))) == [("dispatcher", signal.SIGTERM)]
    world.step(e.Exited("dispatcher", 0))
    assert world.core.phase is Phase.STOPPED
    assert world.core.exit_code == 0


def test_a_worker_that_dies_while_the_server_drains_is_replaced():
    """Requests in flight may need it; an api process is not replaced."""
    world = World()
    world.step()
    world.step(e.StopAsked(signal.SIGTERM))
    world.step(e.Exited("worker-0", -9), e.Exited("api-0", 1))
    assert started(world.step(after=1.0)) == ["worker-0-2"]


def test_a_worker_that_dies_while_the_workers_end_is_not_replaced():
    """Nothing starts any more."""
    world = World(workers=(MODEL, MODEL))
    world.step()
    world.step(e.StopAsked(signal.SIGTERM))
    world.step(e.Exited("api-0", 0))
    world.step(world.status())
    world.step(e.Exited("worker-0", -9))
    assert started(world.step(after=1.0)) == []
    world.step(e.Exited("worker-1", 0))
    world.step(e.Exited("dispatcher", 0))
    assert world.core.phase is Phase.STOPPED


def test_a_dispatcher_that_dies_while_the_server_ends_comes_back_for_the_workers():
    """They wait for its word; what direct clients had queued is sent again to the new one."""
    world = World()
    world.step()
    world.step(e.StopAsked(signal.SIGTERM))
    world.step(e.Exited("api-0", 0), e.Exited("dispatcher", -9))
    assert started(world.step(after=1.0)) == ["dispatcher-2"]


def test_a_second_ctrl_c_kills_everything_at_once():
    """The first drains; a second SIGTERM (a supervisor of ours repeats itself) does not hurry."""
    world = World()
    world.step()
    world.step(e.StopAsked(signal.SIGINT))
    assert signalled(world.step(e.StopAsked(signal.SIGTERM))) == []
    killed = signalled(world.step(e.StopAsked(signal.SIGINT)))
    assert killed == [
        (slot.name, signal.SIGKILL)
        for slot in (*world.slots[1:2], *world.slots[:1], *world.slots[2:])
    ]
    world.step(*[e.Exited(slot.name, -9) for slot in world.slots])
    assert world.core.phase is Phase.STOPPED


def test_the_grace_period_ends_with_kill():
    """Two seconds after it, because the children keep it themselves."""
    world = World(grace=5.0)
    world.step()
    world.step(e.StopAsked(signal.SIGTERM))
    assert signalled(world.step(after=6.9)) == []
    assert world.core.next_wakeup() <= 7.0
    assert len(signalled(world.step(after=0.2))) == 3


def test_the_server_is_published_when_it_listens_and_announced_when_it_is_ready():
    """503 of /readyz says that an api process is there; 200 that a model is."""
    world = World()
    world.step()
    assert [type(a) for a in world.step(e.Answered(503))] == [e.Publish]
    assert world.step(e.Answered(503)) == []
    assert [type(a) for a in world.step(e.Answered(200))] == [e.Announce]
    assert world.step(e.Answered(200)) == []


def test_a_server_that_ends_is_not_published_any_more():
    """An answer that comes too late changes nothing."""
    world = World()
    world.step()
    world.step(e.StopAsked(signal.SIGTERM))
    assert world.step(e.Answered(200)) == []


def test_hello_and_ask_keep_coming():
    """The dispatcher hears of the supervisor twice a second."""
    world = World()
    world.core.step(0.0)
    assert world.core.next_wakeup() == pytest.approx(p.HELLO_SECONDS)
    said = [a.message for a in world.core.step(1.0) if isinstance(a, e.Send)]
    assert [type(message) for message in said] == [p.SupervisorHello, p.Ask]


@pytest.mark.parametrize("event", ["start", "exit", "fence", "stop"])
def test_no_process_moves_once_its_place_has_ended(event):
    """A move that is not in the table is a bug, and raises."""
    with pytest.raises(RuntimeError, match=event):
        move(CHILD_MOVES, ChildState.ENDED, event)


def test_the_window_shows_phase_and_states():
    """One line for the log."""
    world = World()
    world.step()
    world.step(e.Exited("api-0", 1))
    assert repr(world.core) == "<Core [serving | 2 running, 1 waiting]>"


def test_each_process_is_started_with_its_own_configuration():
    """Worker names are unique across the versions of a model, and match what is reported."""
    models = (ServedModel("m:1", b"1", "/one"), ServedModel("m:2", b"2", "/two"))
    config = ServerConfig(models, api_workers=2, hold=3, timeout=5.0)
    crew = Crew(config, place([Demand(m.tag) for m in models], gpus=("4", "5"), cores=8))
    where = Addresses(("ipc:///r/f", "tcp://127.0.0.1:9"), "ipc:///r/b", listener=7, parent=42)
    for slot in crew.slots:
        slot.start(0.0)
    commands = {slot.process: crew.command(slot, where) for slot in crew.slots}

    assert list(commands) == [
        *("dispatcher-1", "api-0-1", "api-1-1"),
        *("worker-m-0-1", "worker-m-1-1", "worker-m-2-1", "worker-m-3-1"),
    ]
    dispatcher, api = commands["dispatcher-1"].config, commands["api-1-1"].config
    worker = commands["worker-m-3-1"]
    assert isinstance(dispatcher, DispatcherConfig)
    assert (dispatcher.frontend, dispatcher.hold, dispatcher.parent) == (where.frontend, 3, 42)
    assert isinstance(api, ApiConfig)
    assert (api.name, api.fd, api.frontend, api.timeout) == ("api-1-1", 7, "ipc:///r/f", 5.0)
    assert commands["api-1-1"].descriptors == (7,)
    assert isinstance(worker.config, WorkerConfig)
    assert (worker.config.name, worker.config.model.tag) == ("worker-m-3-1", "m:2")
    assert (worker.config.device, worker.environment["CUDA_VISIBLE_DEVICES"]) == ("5", "5")
    assert worker.descriptors == ()


def test_a_runnable_and_its_parameters_reach_its_workers_alone(tmp_path):
    """Through a file: a command line has room for 128 KiB."""
    source = RunnableSource("module", "/folder", "/folder/module.py", "Class", b"p" * 200_000)
    models = (ServedModel("r:1", b"", kind="runnable", runnable=source), ServedModel("m:1", b""))
    config = ServerConfig(models, spares=1)
    write_parameters(config, tmp_path)
    where = Addresses(("f",), "b", listener=7, parent=42, run_directory=str(tmp_path))
    crew = Crew(config, place([Demand(model.tag) for model in models], cores=2))
    commands = {slot.name: crew.command(slot, where) for slot in crew.slots}
    given = commands["worker-r-0"].config.model.runnable
    assert given.parameters == b""
    assert Path(given.parameters_file).read_bytes() == source.parameters
    assert Path(given.parameters_file).stat().st_mode & 0o077 == 0
    assert all(len(to_argument(each.config)) < 2000 for each in commands.values())
    assert [model.runnable for model in commands["dispatcher"].config.models] == [None, None]
    assert commands["worker-m-0"].config.model == models[1]
    assert commands["spare-0"].config.kind == "tensorflow"


def test_a_spare_takes_the_place_of_a_worker_that_hosts_the_same():
    """A runnable does not get a process that has imported TensorFlow."""
    spare = Slot(SPARE, "spare-0", hosts="tensorflow")
    spare.start(0.0)
    for hosts, expected in (("tensorflow", spare), ("runnable", None)):
        worker = Slot(WORKER, "worker-0", hosts=hosts)
        assert spare_for(worker, [worker, spare]) is expected


class WithSpares(World):
    """A world with places for spares."""

    def __init__(self, *, spares: int = 1, **options: Any) -> None:
        super().__init__(**options)
        for number in range(spares):
            slot = Slot(SPARE, f"spare-{number}")
            self.slots.append(slot)
            self.core.slots[slot.name] = slot

    def become_ready(self, *names: str) -> list[e.Action]:
        """Let the dispatcher say that these workers are ready."""
        self.ready = set(names)
        self.step(after=1.0)
        return self.step(self.status())


def given(actions: list[e.Action]) -> list[tuple[str, str]]:
    """Return which spare becomes which worker."""
    return [(action.spare, action.process) for action in actions if isinstance(action, e.Give)]


def test_spares_start_only_when_no_worker_is_on_its_way():
    """The import of TensorFlow would slow the workers down."""
    world = WithSpares(workers=(MODEL, MODEL))
    assert started(world.step()) == ["dispatcher-1", "api-0-1", "worker-0-1", "worker-1-1"]
    assert started(world.become_ready("worker-0-1")) == []
    assert world.core.next_wakeup() > world.now
    assert started(world.become_ready("worker-0-1", "worker-1-1")) == ["spare-0-1"]


def test_a_spare_takes_the_place_of_a_dead_worker_and_the_next_one_follows():
    """Its process gets the worker's next name; another spare starts once that worker is ready."""
    world = WithSpares()
    world.step()
    world.become_ready("worker-0-1")
    assert given(world.step(e.Exited("worker-0", -9))) == []
    actions = world.step(after=0.2)
    assert given(actions) == [("spare-0", "worker-0-2")]
    assert started(actions) == []
    assert started(world.become_ready("worker-0-2")) == ["spare-0-2"]
    assert (world.slots[2].restarts, world.slots[3].restarts) == (1, 0)


def test_a_worker_that_never_gets_ready_uses_up_no_spares():
    """After the first death before it was ready it is started anew each time."""
    world = WithSpares(spares=2)
    world.step()
    world.become_ready("worker-0-1")
    world.step(e.Exited("worker-0", -9))
    assert given(world.step(after=0.2)) == [("spare-0", "worker-0-2")]
    world.step(e.Exited("worker-0", 9))
    assert started(world.step(after=1.0)) == ["worker-0-3"]


def test_spares_end_as_soon_as_the_server_drains():
    """They hold nothing; a worker that dies then is started anew."""
    world = WithSpares()
    world.step()
    world.become_ready("worker-0-1")
    actions = world.step(e.StopAsked(signal.SIGTERM))
    assert ("spare-0", signal.SIGTERM) in signalled(actions)
    world.step(e.Exited("spare-0", -15), e.Exited("worker-0", -9))
    assert started(world.step(after=0.5)) == ["worker-0-2"]


def test_a_spare_that_dies_is_started_again_and_marks_no_model():
    """Its back-off is that of every process."""
    world = WithSpares()
    world.step()
    world.become_ready("worker-0-1")
    assert sent(world.step(e.Exited("spare-0", LOAD_ERROR))) == []
    assert started(world.step(after=1.0)) == []
    assert started(world.step(after=35.0)) == ["spare-0-2"]


def test_a_ready_worker_that_left_by_itself_is_replaced_at_once():
    """Exit code 0 without being asked: recycled. No back-off, and earlier deaths are forgiven."""
    world = World()
    world.step()
    for _ in range(3):
        world.step(e.Exited("worker-0", 1))
        world.step(after=10.0)
    world.ready = {"worker-0-4"}
    world.step(world.status(), after=1.0)
    assert started(world.step(e.Exited("worker-0", 0), after=5.0)) == ["worker-0-5"]
    assert (world.slots[2].failures, world.slots[2].early_deaths) == (0, 0)


def test_workers_that_leave_as_soon_as_they_come_start_once_a_second():
    """A limit that is too low costs one start in a second, not all of the machine."""
    world = World()
    world.step()
    world.ready = {"worker-0-1"}
    world.step(world.status(), after=0.5)
    assert started(world.step(e.Exited("worker-0", 0))) == []
    assert started(world.step(after=0.5)) == ["worker-0-2"]


def test_a_worker_that_exits_before_it_was_ready_is_in_trouble_whatever_its_code():
    """A model whose own code ends the process with code 0 is a crash loop as well."""
    world = World()
    world.step()
    for _ in range(5):
        world.step(e.Exited("worker-0", 0))
        world.step(after=10.0)
    assert "died 5 times" in world.slots[2].trouble


def test_a_busy_worker_counts_as_ready():
    """Whoever always works when the dispatcher is asked is not in trouble."""
    world = World()
    world.step()
    status = world.status()
    status.state["workers"]["worker-0-1"] = {"state": "busy", "running": 1, "staged": 0}
    world.step(status)
    assert world.slots[2].serves


def test_every_phase_of_the_end_is_said():
    """One line each, in order."""
    world = World()
    world.step()
    lines = []
    world.ready = {"worker-0-1"}
    for events in (
        [e.StopAsked(signal.SIGTERM)],
        [e.Exited("api-0", 0)],
        [None],
        [e.Exited("worker-0", 0)],
        [e.Exited("dispatcher", 0)],
    ):
        events = [world.status() if event is None else event for event in events]
        lines += [a.text for a in world.step(*events) if isinstance(a, e.Report)]
    phases = [line.partition(":")[0] for line in lines if " ended " not in line]
    assert phases[:1] == ["draining"]
    assert [p for p in phases if "Ctrl-C" not in p] == [
        *("draining", "emptying", "stopping", "ending", "stopped"),
    ]
    assert "worker-0-1 ended (exit code 0)" in lines
