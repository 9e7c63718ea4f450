"""The world around a core in virtual time: gateways that ask, workers that take as long as told.

1. The next moment is that of the next arrival, of the next message on its way, or of the alarm
   that the core has set, as the shell's sleep keeps it.
2. Everything that comes at that moment is handed to the core; the core steps once.
3. Its sends are performed: a batch reaches its worker after half the transfer, runs when the
   worker is free, and its answers come back after the other half.

The messages are those of the protocol; the core cannot tell that nothing is real.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Sequence

import numpy as np

from tfrunner import protocol as p
from tfrunner.config import DispatcherConfig, ServedModel
from tfrunner.dispatcher.core import Core
from tfrunner.dispatcher.outbox import Send
from tfrunner.dispatcher.policy import Policy
from tfrunner.errors import StateError
from tfrunner.simulator.callers import METHOD, PART, Callers, Part, tag
from tfrunner.simulator.results import Outcome
from tfrunner.simulator.scenario import Scenario
from tfrunner.simulator.traces import Trace

EPOCH = "virtual"
GATEWAY = b"gateway"
SUPERVISOR = b"supervisor"

MOST_STEPS = 1000
"""Steps of the core at one moment; a core that asks for more would never let time pass."""


class SimulatedWorker:
    """A worker process: when it is free again, and what it has done.

    Attributes:
        part: Number of the model that it runs.
        free: The moment at which it has run all that it holds.
        busy: Seconds that it has run batches.
        seen: The sizes that it has run.
    """

    __slots__ = ("busy", "free", "hello", "identity", "part", "seen", "speed")

    def __init__(self, part: int, speed: float, hello: p.WorkerHello) -> None:
        self.identity = hello.name.encode()
        self.part = part
        self.speed = speed
        self.hello = hello
        self.free = 0.0
        self.busy = 0.0
        self.seen: set[int] = set()


class World:
    """One simulation.

    Args:
        parts: The served models.
        policy: The policy of the core; it learns: a new one for each simulation.
        rng: What is left to chance while batches run.
    """

    def __init__(self, parts: Sequence[Part], policy: Policy, rng: np.random.Generator) -> None:
        self._parts = parts
        self._rng = rng
        self._now = 0.0
        self._mail: list[tuple[float, int, bytes, p.Message | None]] = []
        self._posted = 0
        self._started = 0
        self._workers: dict[bytes, SimulatedWorker] = {}
        self._outcomes = [Outcome(part.trace, part.scenario) for part in parts]
        self._alarm = max(part.scenario.alarm for part in parts)
        tags = enumerate(part.scenario for part in parts)
        models = tuple(
            ServedModel(
                tag(number), b"", max_batch_size=s.max_batch_size, queue_requests=s.queue_requests
            )
            for number, s in tags
        )
        self._core = Core(DispatcherConfig(("f",), "b", models), policy, epoch=EPOCH)

    def run(self) -> list[Outcome]:
        """Simulate until every request is settled or has expired; return what came of them.

        Raises:
            StateError: The core wants to step for ever at one moment.
        """
        self._open()
        arrivals = Callers(self._parts)
        end = max(part.trace.seconds + part.scenario.deadline for part in self._parts)
        steps = 0
        while self._now <= end and (arrivals.left or self._are_open()):
            moment = min(arrivals.next, self._mail[0][0], self._wakeup())
            steps = steps + 1 if moment <= self._now else 0
            if steps > MOST_STEPS:
                raise StateError(f"{self._core!r} asks to be woken at {moment}, which has come")
            self._now = max(self._now, moment)
            if arrivals.next <= self._now:
                self._core.handle(GATEWAY, p.Submit(arrivals.take(self._now)), self._now)
            self._deliver()
            self._step()
        return self._outcomes

    # --- opening ------------------------------------------------------------------------------

    def _open(self) -> None:
        self._core.handle(SUPERVISOR, p.SupervisorHello("supervisor", EPOCH), 0.0)
        for number, part in enumerate(self._parts):
            for speed in part.scenario.speeds:
                self._start_worker(number, speed)
        self._say_hello()
        self._step()

    def _start_worker(self, number: int, speed: float) -> None:
        """Start a worker that is loaded and warm at once."""
        scenario = self._parts[number].scenario
        name = f"worker-{self._started}"
        self._started += 1
        hello = p.WorkerHello(
            name,
            EPOCH,
            tag(number),
            1,
            f"device-{name}",
            True,
            (method(scenario, speed),),
            device_class=f"speed-{speed:g}",
        )
        worker = SimulatedWorker(number, speed, hello)
        if scenario.is_warm:
            worker.seen.update(scenario.warmed)
        self._workers[worker.identity] = worker
        self._core.handle(worker.identity, hello, self._now)

    def _say_hello(self) -> None:
        """Let everybody say hello, now and every half second: who is silent counts as hung."""
        self._core.handle(GATEWAY, p.Hello("gateway", EPOCH), self._now)
        for worker in self._workers.values():
            self._core.handle(worker.identity, worker.hello, self._now)
        self._post(self._now + p.HELLO_SECONDS, GATEWAY, None)

    # --- letting time pass --------------------------------------------------------------------

    def _are_open(self) -> bool:
        return any(outcome.open for outcome in self._outcomes)

    def _wakeup(self) -> float:
        """Return when the shell would wake by itself: it sleeps whole milliseconds."""
        wakeup = self._core.next_wakeup()
        if wakeup is None:
            return math.inf
        if not self._alarm or wakeup <= self._now or wakeup == math.inf:
            return wakeup
        return self._now + self._alarm * math.ceil((wakeup - self._now) / self._alarm - 1e-9)

    def _post(self, moment: float, sender: bytes, message: p.Message | None) -> None:
        """Put a message on its way; None: everybody says hello."""
        self._posted += 1
        heapq.heappush(self._mail, (moment, self._posted, sender, message))

    def _deliver(self) -> None:
        """Hand the core what has come by now; it drops what a dead worker sent."""
        mail = self._mail
        while mail[0][0] <= self._now:
            _, _, sender, message = heapq.heappop(mail)
            if message is None:
                self._say_hello()
            else:
                self._core.handle(sender, message, self._now)

    def _step(self) -> None:
        for send in self._core.step(self._now):
            self._perform(send)

    # --- performing sends ---------------------------------------------------------------------

    def _perform(self, send: Send) -> None:
        match send.message:
            case p.RunBatch() as batch:
                self._run(self._workers[send.peer], batch)
            case p.Results(blocks=blocks):
                for block in blocks:
                    outcome = self._outcomes[int(block.layout)]
                    for span in block.spans:
                        outcome.count_rows(span, self._now)
            case p.Failures(failures=failures):
                for failure in failures:
                    part, number = divmod(failure.request, PART)
                    self._outcomes[part].count_failure(number, failure.code, self._now)
            case p.Fence(worker=name):
                self._replace(name)

    def _run(self, worker: SimulatedWorker, batch: p.RunBatch) -> None:
        """Run a batch when the worker is free, and post the answer."""
        scenario = self._parts[worker.part].scenario
        start = max(worker.free, self._now + scenario.transfer / 2)
        rows = scenario.padded(batch.rows)
        seconds = scenario.cost.draw(rows, start, self._rng) / worker.speed
        if rows not in worker.seen:
            worker.seen.add(rows)
            seconds += scenario.first_run
        worker.free = start + seconds
        worker.busy += seconds
        self._outcomes[worker.part].count_batch(batch.rows, seconds)
        done = p.BatchDone(batch.batch, batch.attempt, seconds, answers(batch, worker.part))
        self._post(worker.free + scenario.transfer / 2, worker.identity, done)

    def _replace(self, name: str) -> None:
        """Kill a worker that the core wants fenced, and start another."""
        worker = self._workers.pop(name.encode())
        self._outcomes[worker.part].fenced += 1
        self._core.handle(SUPERVISOR, p.WorkerGone(name, "signal 9"), self._now)
        self._start_worker(worker.part, worker.speed)
        self._step()


def method(scenario: Scenario, speed: float) -> p.MethodState:
    """Return what a worker of that speed says of its one method."""
    costs: tuple[tuple[int, float], ...] = ()
    if scenario.is_warm:
        costs = tuple((rows, scenario.cost.mean(rows, 0.0) / speed) for rows in scenario.warmed)
    return p.MethodState(METHOD, True, True, costs=costs, sizes=scenario.sizes)


def answers(batch: p.RunBatch, part: int) -> tuple[p.BlockFor, ...]:
    """Return the blocks of an honest worker; their layout names the model's part."""
    blocks = []
    for group in batch.groups:
        spans = tuple([p.Span(x.request, x.start, x.stop, x.rows) for x in group.parts])
        blocks.append(p.BlockFor(group.gateway, p.Block(spans, b"%d" % part, ())))
    return tuple(blocks)


def simulate(scenario: Scenario, trace: Trace, policy: Policy, *, seed: int = 0) -> Outcome:
    """Return what comes of a trace in a scenario under a policy.

    Args:
        scenario: The model and its workers.
        trace: The requests.
        policy: A new one: it learns.
        seed: Of what is left to chance while batches run; that of the arrivals is another.
    """
    rng = np.random.default_rng([seed, 1])
    return World([Part(scenario, trace)], policy, rng).run()[0]
