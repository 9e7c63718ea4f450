"""A small world around the dispatcher's core: gateways, workers and a supervisor, in virtual time.

It performs the core's sends, checks every promise at the moment it could be broken, and lets
a test decide what happens next. A request's body names its gateway and id; a worker's output
names the rows that it ran, so a row that reaches the wrong caller is seen.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from tfrunner import protocol as p
from tfrunner.config import DispatcherConfig, ServedModel
from tfrunner.dispatcher.core import Core
from tfrunner.dispatcher.outbox import FRONTEND, PeerGone
from tfrunner.dispatcher.predictive import Predictive

MODEL = "m:1"
GATEWAYS = (b"a", b"b", b"c", b"g", b"quiet")
METHODS = (
    p.MethodState("__call__", True, True),
    p.MethodState("single", False, True),
    p.MethodState("once", False, False),
)


@dataclass
class Asked:
    """A request, as its caller knows it, and what came back."""

    gateway: bytes
    request: p.Request
    deadline: float
    fails: bool = False
    kills: bool = False
    hungry: bool = False  # no memory is enough for it
    rows_back: list[int] = field(default_factory=list)
    failure: p.Failure | None = None
    cancelled: bool = False
    deaths: int = 0
    lent: bool = False  # a body lies in shared memory
    released: int = 0

    @property
    def is_answered(self) -> bool:
        """Whether every row came back."""
        return len(self.rows_back) == max(0, self.request.rows) and self.failure is None


@dataclass
class FakeWorker:
    """A worker process: what it holds, and the replies it has sent that may come late.

    `stopped`: it stands still, as after SIGSTOP: it neither works nor says hello. `stuck`: it
    says hello, but its model does not return. `memory`: most rows that it can run; `least`: the
    fewest that it ever could.
    """

    identity: bytes
    name: str
    held: list[p.RunBatch] = field(default_factory=list)
    alive: bool = True
    old_replies: list[p.BatchDone] = field(default_factory=list)
    runs_suspect: bool = False
    stopped: bool = False
    stuck: bool = False
    memory: int = 10**9
    least: int = 10**9
    leaving: bool = False
    told_to_stop: bool = False


class World:
    """Everything around one core. Attributes say what is true; methods make things happen."""

    def __init__(self, *, bound: int = 8, workers: int = 1, hold: int = 0, **limits: int) -> None:
        served = ServedModel(MODEL, b"spec", max_batch_size=bound, **limits)
        self.config = DispatcherConfig(("f",), "b", (served,), hold=hold)
        self.methods: tuple[p.MethodState, ...] = METHODS
        self.bound = bound
        self.now = 0.0
        self.epoch = 0
        self.asked: dict[tuple[bytes, int], Asked] = {}
        self.workers: dict[bytes, FakeWorker] = {}
        self.gone_gateways: set[bytes] = set()
        self.fences: list[p.Fence] = []
        self.sizes: list[int] = []
        self.refused: list[p.Failure] = []
        self.started = 0
        self.core = self._new_core()
        for _ in range(workers):
            self.start_worker()

    # --- making things happen -----------------------------------------------------------------

    def _new_core(self) -> Core:
        self.epoch += 1
        core = Core(self.config, Predictive(), epoch=f"epoch-{self.epoch}", now=self.now)
        core.handle(b"supervisor", p.SupervisorHello("supervisor"), self.now)
        self._greet(core)
        return core

    def _greet(self, core: Core) -> None:
        """Let every gateway that is not gone say its hello."""
        for gateway in GATEWAYS:
            if gateway not in self.gone_gateways:
                segment = p.Segment(f"tfrunner:{gateway.decode()}:1", 1, 1, 2**20)
                hello = p.Hello(gateway.decode(), f"epoch-{self.epoch}", segment)
                core.handle(gateway, hello, self.now)

    def start_worker(self) -> FakeWorker:
        """Start a worker, loaded and warm."""
        self.started += 1
        name = f"worker-{self.started}"
        worker = FakeWorker(name.encode(), name)
        self.workers[worker.identity] = worker
        self.announce(worker)
        return worker

    def announce(self, worker: FakeWorker) -> None:
        """Let a worker say its hello, knowing the present epoch."""
        is_ready = not worker.leaving
        hello = p.WorkerHello(
            *(worker.name, f"epoch-{self.epoch}", MODEL, 1, "cpu", is_ready),
            methods=self.methods,
        )
        self.tell(worker.identity, hello)

    def leave(self, worker: FakeWorker) -> None:
        """Let a worker ask to go, as after SIGTERM."""
        worker.leaving = True
        self.tell(worker.identity, p.Leave("signal 15"))

    def wish_to_leave(self, worker: FakeWorker) -> None:
        """Let a worn worker ask to be replaced; it is told to stop when its turn comes."""
        self.tell(worker.identity, p.Leave("worn", may_wait=True))

    def tell(self, sender: bytes, message: object) -> None:
        """Hand one message to the core, step, and perform what it sends."""
        self.core.handle(sender, message, self.now)
        self.step()

    def step(self) -> None:
        """Step the core and perform its sends."""
        for send in self.core.step(self.now):
            self._perform(send)

    def let_pass(self, seconds: float) -> None:
        """Let time pass, with the hellos that gateways and workers say meanwhile."""
        end = self.now + seconds
        while self.now < end:
            self.now = min(end, self.now + 0.5)
            self._greet(self.core)
            for worker in list(self.workers.values()):
                if worker.alive and not worker.stopped:
                    self.announce(worker)
            self.step()

    def submit(
        self,
        rows: int = 1,
        *,
        gateway: bytes = b"g",
        method: str = "__call__",
        layout: bytes = b"L",
        timeout: float = 1e6,
        fails: bool = False,
        kills: bool = False,
        hungry: bool = False,
        client: str = "",
        priority: int = 0,
        lent: bool = False,
        length: int = 100,
    ) -> Asked:
        """Send one request and step; if it is `lent`, one body of two lies in shared memory."""
        number = len(self.asked) + 1
        bodies = (gateway + b":%d" % number, *([p.Place(4096 * number, length)] * lent))
        request = p.Request(number, MODEL, method, layout, rows, timeout, client, bodies, priority)
        asked = Asked(gateway, request, self.now + timeout, fails, kills, hungry, lent=lent)
        self.asked[gateway, number] = asked
        self.tell(gateway, p.Submit((request,)))
        return asked

    def lose_memory(self, worker: FakeWorker, rows: int) -> None:
        """Let a worker's device hold only so many rows from now on."""
        worker.memory = rows
        worker.least = min(worker.least, rows)

    def cancel(self, asked: Asked) -> None:
        """Withdraw a request."""
        asked.cancelled = True
        self.tell(asked.gateway, p.Cancel((asked.request.id,)))

    def finish(self, worker: FakeWorker, seconds: float = 0.001) -> None:
        """Let a worker end its running batch, as the batch deserves: done, failed or dead."""
        message = worker.held[0]
        askeds = [self._asked(g.gateway, part) for g in message.groups for part in g.parts]
        if any(asked.kills for asked in askeds):
            self.kill(worker)
            return
        worker.held.pop(0)
        worker.runs_suspect = False
        if message.rows > worker.memory or any(asked.hungry for asked in askeds):
            text = "no memory"
            failed = p.BatchFailed(message.batch, message.attempt, "out_of_memory", text)
            self.tell(worker.identity, failed)
            return
        if any(asked.fails for asked in askeds):
            text = "ValueError: bad row"
            failed = p.BatchFailed(message.batch, message.attempt, "model_error", text)
            self.tell(worker.identity, failed)
            return
        done = p.BatchDone(message.batch, message.attempt, seconds, outputs(message))
        worker.old_replies.append(done)
        self.tell(worker.identity, done)

    def finish_all(self) -> None:
        """Let every worker finish until nothing is held."""
        for _ in range(10_000):
            busy = [worker for worker in self.workers.values() if worker.alive and worker.held]
            if not busy:
                return
            able = [worker for worker in busy if not worker.stopped and not worker.stuck]
            if not able:
                return
            self.finish(able[0])
            if not any(worker.alive for worker in self.workers.values()):
                self.start_worker()
        raise AssertionError("the dispatcher never comes to rest")

    def kill(self, worker: FakeWorker, reason: str = "signal 9") -> None:
        """Let a worker die and be reaped."""
        worker.alive = False
        if worker.held:
            for each in worker.held[0].groups:
                for part in each.parts:
                    self._asked(each.gateway, part).deaths += 1
        worker.held.clear()
        self.tell(b"supervisor", p.WorkerGone(worker.name, reason))

    def lose_connection(self, worker: FakeWorker) -> None:
        """Let a send to a worker fail: the core must fence it."""
        self.tell(worker.identity, PeerGone("backend"))

    def lose_gateway(self, gateway: bytes) -> None:
        """Let a send to a gateway fail."""
        self.gone_gateways.add(gateway)
        self.tell(gateway, PeerGone(FRONTEND))

    def restart_dispatcher(self) -> None:
        """Begin a new epoch: workers drop what they hold, gateways send again what is open."""
        for worker in self.workers.values():
            worker.held.clear()
            worker.runs_suspect = False
        still_open = self.open_requests()
        self.core = self._new_core()
        for worker in list(self.workers.values()):
            if worker.alive:
                self.announce(worker)
            if worker.alive and worker.leaving:
                self.leave(worker)
        for asked in self.asked.values():
            asked.lent = asked.lent and asked in still_open  # others lie in memory of before
        for asked in still_open:
            asked.rows_back.clear()
            asked.deaths = 0  # the new one cannot know of them
            if asked.request.method == "once":  # it may have run: its gateway fails it itself
                asked.lent = False
                asked.failure = p.Failure(asked.request.id, "worker_lost", "a new dispatcher")
                continue
            left = asked.deadline - self.now  # more than nothing, or it would not be open
            request = p.msgspec.structs.replace(asked.request, timeout=left)
            self.tell(asked.gateway, p.Submit((request,)))

    # --- what is true -----------------------------------------------------------------------------

    def open_requests(self) -> list[Asked]:
        """Return the requests whose callers still wait."""
        return [
            asked
            for asked in self.asked.values()
            if not asked.is_answered
            and asked.failure is None
            and not asked.cancelled
            and asked.gateway not in self.gone_gateways
            and asked.deadline > self.now
        ]

    def _asked(self, gateway: bytes, part: p.Part | p.Span) -> Asked:
        return self.asked[gateway, part.request]

    # --- performing sends, and checking every promise ---------------------------------------------

    def _perform(self, send: object) -> None:
        link, peer, message = send
        match message:
            case p.RunBatch():
                self._check_batch(peer, message)
                self.workers[peer].held.append(message)
            case p.Results(blocks=blocks, released=released):
                for block in blocks:
                    self._check_block(peer, block)
                for number in released:
                    self._check_released(self.asked[peer, number])
            case p.Failures(failures=failures):
                for failure in failures:
                    asked = self.asked[peer, failure.request]
                    assert asked.failure is None, "a request failed twice"
                    assert not asked.is_answered or asked.request.rows == 0, "answered, then failed"
                    asked.failure = failure
                    self.refused.append(failure)
            case p.Fence():
                self.fences.append(message)
            case p.Stop():
                worker = self.workers[peer]
                assert not worker.held, "a worker was told to stop while it holds a batch"
                worker.told_to_stop = worker.leaving = True
            case p.Welcome() | p.Status():
                assert link in ("frontend", "backend")
            case _:
                raise AssertionError(f"unexpected {message}")

    def _check_batch(self, peer: bytes, message: p.RunBatch) -> None:
        worker = self.workers[peer]
        assert worker.alive, "a batch was sent to a dead worker"
        assert not worker.told_to_stop, "a batch was sent to a worker that was told to stop"
        assert len(worker.held) < 2, "a worker was given a third batch"
        parts = [(g.gateway, part) for g in message.groups for part in g.parts]
        rows = sum(part.stop - part.start for _, part in parts)
        self.sizes.append(rows)
        assert rows == message.rows
        if message.method == "__call__":
            assert rows <= self.bound, f"{rows} rows in a batch; the bound is {self.bound}"
        else:
            assert len(parts) == 1, "requests of a method that is not batchable were merged"
        for gateway, part in parts:
            asked = self._asked(gateway, part)
            assert asked.deadline > self.now, "an expired request was assigned"
            assert not asked.cancelled, "a cancelled request was assigned"
            assert asked.failure is None, "a failed request was assigned"
            same = (asked.request.method, asked.request.layout)
            assert same == (message.method, message.layout), "two batch keys were merged"
            assert (asked.gateway, asked.request.rows) == (gateway, part.rows)
            assert part.bodies == asked.request.bodies, "a part has another request's bodies"
            if asked.request.method == "once":
                assert asked.deaths == 0, "a request that must not run twice was started again"
            if asked.deaths:
                assert len(parts) == 1, "a suspect was run in company"
                assert not worker.held, "a suspect was staged behind another batch"
            self._check_nobody_else_holds(worker, gateway, part)
        assert not worker.runs_suspect, "a batch was staged behind a suspect"
        worker.runs_suspect = any(self._asked(g, part).deaths for g, part in parts)

    def _check_nobody_else_holds(self, worker: FakeWorker, gateway: bytes, part: p.Part) -> None:
        for other in self.workers.values():
            for held in other.held:
                for each in held.groups:
                    for its in each.parts:
                        if (each.gateway, its.request) == (gateway, part.request):
                            apart = its.stop <= part.start or part.stop <= its.start
                            assert apart, "rows run twice at once: no fence before the re-run"

    def _check_released(self, asked: Asked) -> None:
        """What a request lies in may be used again from now on: nobody may read it any more."""
        assert asked.lent, "a request that lies in no shared memory was released"
        asked.released += 1
        assert asked.released == 1, "a request was released twice"
        is_over = asked.is_answered or asked.failure is not None or asked.cancelled
        assert is_over or asked.deadline <= self.now or asked.gateway in self.gone_gateways
        for worker in self.workers.values():
            for held in worker.held if worker.alive else ():
                ids = [(g.gateway, part.request) for g in held.groups for part in g.parts]
                assert (asked.gateway, asked.request.id) not in ids, "a worker still reads it"

    def unreleased(self) -> list[Asked]:
        """Return the requests whose shared memory can never be used again, once all is at rest."""
        return [
            asked
            for asked in self.asked.values()
            if asked.lent and not asked.released and asked.gateway not in self.gone_gateways
        ]

    def _check_block(self, gateway: bytes, block: p.Block) -> None:
        told = block.bodies[0].decode().split()
        for span in block.spans:
            asked = self._asked(gateway, span)
            for row in range(span.start, span.stop):
                assert told.pop(0) == f"{gateway.decode()}:{span.request}:{row}", "another's row"
                assert row not in asked.rows_back, "a row was answered twice"
                asked.rows_back.append(row)
        assert not told, "more rows than were asked for"


def only_worker(world: World) -> FakeWorker:
    """Return the one worker that is alive."""
    (worker,) = (worker for worker in world.workers.values() if worker.alive)
    return worker


def outputs(message: p.RunBatch) -> tuple[p.BlockFor, ...]:
    """Return what an honest worker answers: the name of every row, for each gateway."""
    blocks = []
    for each in message.groups:
        names = []
        for part in each.parts:
            names += [f"{part.bodies[0].decode()}:{row}" for row in range(part.start, part.stop)]
        spans = tuple(p.Span(x.request, x.start, x.stop, x.rows) for x in each.parts)
        block = p.Block(spans, b"out", (" ".join(names).encode(),))
        blocks.append(p.BlockFor(each.gateway, block))
    return tuple(blocks)


class TimedWorld(World):
    """A world in which workers take time: `run` lets it pass.

    Args:
        cost: Seconds that a batch of so many rows takes.
        transfer: Seconds to a worker and back.
        is_warm: Whether the workers bring their costs with them; otherwise they are learned.
        sizes: The sizes that workers may run; they pad to the next one.
        parts: Into how many parts workers say that they split a batch.
    """

    def __init__(
        self,
        cost: Callable[[int], float],
        *,
        bound: int = 8,
        workers: int = 1,
        transfer: float = 0.0,
        is_warm: bool = True,
        sizes: tuple[int, ...] = (),
        parts: int = 1,
        **limits: int,
    ) -> None:
        super().__init__(bound=bound, workers=0, **limits)
        self.cost = cost
        self.transfer = transfer
        self.batches: list[tuple[float, int]] = []  # when each was sent, and its rows
        self.answers: dict[int, float] = {}  # when each request was answered, by its number
        self._ends: list[tuple[float, int, FakeWorker]] = []
        self._free: dict[str, float] = {}
        self._seconds: dict[int, float] = {}
        self._sizes = sizes
        known = sizes or tuple(1 << power for power in range(bound.bit_length()))
        costs = tuple((rows, cost(rows)) for rows in known) if is_warm else ()
        self.methods = (p.MethodState("__call__", True, True, "", costs, sizes, parts=parts),)
        for _ in range(workers):
            self.start_worker()

    def _perform(self, send: object) -> None:
        super()._perform(send)
        _, peer, message = send
        if isinstance(message, p.RunBatch):
            worker = self.workers[peer]
            self.batches.append((self.now, message.rows))
            start = max(self.now + self.transfer / 2, self._free.get(worker.name, 0.0))
            padded = next((size for size in self._sizes if size >= message.rows), message.rows)
            end = self._free[worker.name] = start + self.cost(padded)
            heapq.heappush(self._ends, (end + self.transfer / 2, len(self.batches), worker))
            self._seconds[message.batch] = end - start
        elif isinstance(message, p.Results):
            for block in message.blocks:
                for span in block.spans:
                    self.answers[span.request] = self.now

    def run(self, until: float) -> None:
        """Let time pass: batches end, and the core is woken when it wants to be."""
        while True:
            alarm = self.core.next_wakeup()
            end = self._ends[0][0] if self._ends else math.inf
            moment = min(end, math.inf if alarm is None else alarm)
            if moment > until:
                break
            self.now = max(self.now, moment)
            if end <= self.now:
                _, _, worker = heapq.heappop(self._ends)
                self.finish(worker, self._seconds[worker.held[0].batch])
            else:
                self._greet(self.core)
                for worker in self.workers.values():
                    self.announce(worker)
                self.step()
        self.now = max(self.now, until)

    def latency(self, asked: Asked) -> float:
        """Return the seconds after which a request was answered."""
        return self.answers[asked.request.id] - (asked.deadline - asked.request.timeout)

    @property
    def model(self) -> dict[str, Any]:
        """What the snapshot says of the model."""
        return self.core.snapshot(self.now)["models"][MODEL]
