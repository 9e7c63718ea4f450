"""The supervisor's rules: what starts when, what is restarted, and the order of the end.

No processes, no sockets, no clock. Callers report what happened with `handle`, pass `now`,
and perform what `step` returns. The end of a server, in phases:

1. draining: the api processes end first; dispatcher and workers go on for their sake;
2. emptying: the dispatcher answers what direct clients have queued;
3. stopping: the workers leave, each as soon as the dispatcher knows of nothing that it holds;
4. ending: the dispatcher;
5. killing: at the end of the grace period, or at a second Ctrl-C, all that is left.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Sequence
from typing import Any

from tfrunner import protocol
from tfrunner.processes import CONFIG_ERROR
from tfrunner.supervisor.events import (
    Action,
    Announce,
    Answered,
    CloseListener,
    Event,
    Exited,
    Give,
    Publish,
    Renew,
    Renewed,
    Report,
    Send,
    Signal,
    Start,
    StopAsked,
)
from tfrunner.supervisor.messenger import Messenger
from tfrunner.supervisor.silence import Silence
from tfrunner.supervisor.slots import (
    API,
    DISPATCHER,
    SPARE,
    WORKER,
    Slot,
    are_settled,
    exit_text,
    spare_for,
    troubles,
)
from tfrunner.supervisor.states import PHASE_MOVES, ChildState, Phase, move
from tfrunner.supervisor.succession import Succession

ASK_SECONDS = 1.0
EMPTYING_SECONDS = 0.1
"""How often the dispatcher is asked: in general, and while its end waits for the answer."""

RETURN_SECONDS = 2.0
"""So long after its start a new dispatcher may accept what gateways send again at the end."""

GRACE_MARGIN = 2.0
"""Seconds after the grace period, which the children keep themselves, before they are killed."""

KINDS = (API, DISPATCHER, WORKER, SPARE)

WANTED = {
    Phase.SERVING: (DISPATCHER, API, WORKER, SPARE),
    Phase.DRAINING: (DISPATCHER, WORKER),
    Phase.EMPTYING: (DISPATCHER, WORKER),
    Phase.STOPPING: (DISPATCHER,),
}
"""Kinds of processes that are restarted in each phase."""

READY = ("ready", "busy", "leaving")
"""What the dispatcher says of workers that are, or were, ready."""

PHASE_TEXTS = {
    Phase.DRAINING: "draining: the api processes answer what they have",
    Phase.EMPTYING: "emptying: the dispatcher answers what is queued",
    Phase.STOPPING: "stopping: the workers leave",
    Phase.ENDING: "ending: the dispatcher closes",
    Phase.KILLING: "killing what is left",
    Phase.STOPPED: "stopped: every process has ended",
}


class Core:
    """Decides for all children of one server.

    Args:
        slots: One for each process that is to run.
        name: What the dispatcher knows the supervisor by.
        grace: Seconds that the processes have to end.
        strict: Whether a model that cannot be served ends the server.
        jitter: Gives random numbers from 0 to 1.
    """

    def __init__(
        self,
        slots: Sequence[Slot],
        *,
        name: str = "supervisor",
        grace: float,
        strict: bool = False,
        jitter: Callable[[], float],
    ) -> None:
        self.slots = {slot.name: slot for slot in slots}
        self.phase = Phase.SERVING
        self.exit_code = 0
        self.is_published = False
        self.is_announced = False
        self._grace = grace
        self._strict = strict
        self._jitter = jitter
        self._messenger = Messenger(name)
        self._silence = Silence()
        self._kill_at: float | None = None
        self._succession = Succession(patience=grace + GRACE_MARGIN)
        self._actions: list[Action] = []

    def __repr__(self) -> str:
        states = [slot.state.value for slot in self.slots.values()]
        counts = ", ".join(f"{states.count(state)} {state}" for state in sorted(set(states)))
        return f"<Core [{self.phase.value} | {counts}]>"

    # --- events -----------------------------------------------------------------------------

    def handle(self, event: Event, now: float) -> None:
        """Take in what happened; the consequences come with the next `step`."""
        if isinstance(event, (protocol.Welcome, protocol.Fence, protocol.Status)):
            self._silence.hear()
        match event:
            case Exited():
                self._exited(self.slots[event.slot], event.code, now)
            case StopAsked():
                self._stop_asked(event.signal, now)
            case Answered():
                self._answered(event.status)
            case Renew():
                self._actions += self._succession.begin(
                    self.slots, event.slots, self.phase, now=now
                )
            case Renewed():
                self._actions += self._succession.finish(self.slots, now)
            case protocol.Welcome():
                self._actions += map(Send, self._messenger.welcomed(event.epoch))
            case protocol.Fence():
                self._fence(event)
            case protocol.Status():
                self._learn(event, now)

    def _exited(self, slot: Slot, code: int, now: float) -> None:
        reason = slot.fence_reason or exit_text(code)
        was_asked = slot.state is ChildState.STOPPING
        slot.exit(code, now, jitter=self._jitter)
        if slot.kind == WORKER:
            self._actions.append(Send(self._messenger.gone(slot.process, reason)))
        if was_asked:
            self._report(f"{slot.process} ended ({reason})")
            self._succession.forget(self.slots, slot, self.phase)
            return
        if slot.name in self._succession.heirs:
            self._actions += self._succession.give_up(self.slots, slot, reason, now=now)
            return
        if code == CONFIG_ERROR and slot.kind != WORKER and self.phase is Phase.SERVING:
            self._give_up(
                f"{slot.process} cannot run with its configuration; its log says why", now
            )
        if not self._restarts(slot):
            slot.stop()
            return
        if slot.trouble:
            self._messenger.has_trouble(now)
        wait = slot.start_at - now
        self._report(f"{slot.process} ended ({reason}); it is started again in {wait:.1f} s")

    def _stop_asked(self, number: int, now: float) -> None:
        if self.phase is Phase.SERVING:
            self._begin_end(now)
            self._report("stopping; Ctrl-C once more stops at once")
        elif number == signal.SIGINT and self.phase is not Phase.STOPPED:
            self._kill_at = now

    def _give_up(self, why: str, now: float) -> None:
        self.exit_code = 1
        self._report(why)
        self._begin_end(now)

    def _begin_end(self, now: float) -> None:
        self._go_on("drain")
        self._kill_at = now + self._grace + GRACE_MARGIN
        self._actions.append(CloseListener())
        self._stop_kind(API)
        self._stop_kind(SPARE)

    def _answered(self, status: int) -> None:
        if self.phase is not Phase.SERVING:
            return
        if not self.is_published:
            self.is_published = True
            self._actions.append(Publish())
        if status == 200 and not self.is_announced:
            self.is_announced = True
            self._actions.append(Announce())

    def _fence(self, fence: protocol.Fence) -> None:
        slot = next((s for s in self.slots.values() if s.process == fence.worker), None)
        if slot is None or not slot.has_process:
            self._actions.append(Send(protocol.WorkerGone(fence.worker, "it is gone already")))
            return
        if slot.state is ChildState.RUNNING:
            slot.fence(fence.reason)
            self._report(f"{fence.worker} is fenced and killed: {fence.reason}")
        self._actions.append(Signal(slot.name, signal.SIGKILL))

    def _learn(self, status: protocol.Status, now: float) -> None:
        """Take in who is ready; tell the dispatcher which models cannot be served."""
        workers: dict[str, Any] = status.state.get("workers", {})
        for slot in self.slots.values():
            if slot.has_process and workers.get(slot.process, {}).get("state") in READY:
                slot.ready()
        if self.phase is Phase.EMPTYING:
            self._look_whether_empty(status.state, now)
        for news in self._messenger.news(status, troubles(self.slots.values())):
            self._actions.append(Send(news))
            if news.reason:
                self._unavailable(news.model, news.reason, now)

    def _look_whether_empty(self, state: dict[str, Any], now: float) -> None:
        """Go on with the end once nothing is left to answer."""
        if not state["draining"]:  # it took the place of the one that was told
            if any(now - each.started_at >= RETURN_SECONDS for each in self._dispatchers()):
                self._actions.append(Send(protocol.Drain()))
        elif _is_empty(state):
            self._stop_workers()

    def _unavailable(self, model: str, reason: str, now: float) -> None:
        self._report(f"{model} cannot be served: {reason}")
        if self._strict and self.phase is Phase.SERVING:
            self._give_up("stopping, because --strict was given", now)

    # --- decisions --------------------------------------------------------------------------

    def step(self, now: float) -> list[Action]:
        """Return what is to be done now."""
        for slot in self.slots.values():
            if self._may_start(slot) and slot.start_at <= now:
                self._start(slot, now)
        self._actions += self._succession.kill(now)
        self._kill_silent(now)
        self._advance(now)
        if self.phase is not Phase.STOPPED:
            pause = EMPTYING_SECONDS if self.phase is Phase.EMPTYING else ASK_SECONDS
            self._actions += map(Send, self._messenger.regular(now, pause=pause))
        actions, self._actions = self._actions, []
        return actions

    def next_wakeup(self) -> float:
        """Return the monotonic moment at which `step` is due, if nothing happens before."""
        moments = [self._messenger.next_wakeup()]
        moments += [slot.start_at for slot in self.slots.values() if self._may_start(slot)]
        kills = (self._kill_at, self._succession.next_wakeup())
        moments += [moment for moment in kills if moment is not None]
        return min(moments)

    def _restarts(self, slot: Slot) -> bool:
        """Whether a process of this kind is still wanted in this phase."""
        return slot.kind in WANTED.get(self.phase, ())

    def _may_start(self, slot: Slot) -> bool:
        """Whether a place may have its next process once its moment has come."""
        if slot.state is not ChildState.WAITING or not self._restarts(slot):
            return False
        return slot.kind != SPARE or are_settled(self.slots.values())

    def _start(self, slot: Slot, now: float) -> None:
        spare = spare_for(slot, self.slots.values())
        slot.start(now)
        if slot.kind == DISPATCHER:
            self._silence.begin()
        if spare is None:
            self._actions.append(Start(slot.name, slot.process))
            return
        self._actions.append(Give(spare.name, slot.name, slot.process))
        spare.give(now)

    def _kill_silent(self, now: float) -> None:
        """Kill a dispatcher that stands still: its place gets another one once it is reaped."""
        self._silence.step(now)
        if not self._silence.is_too_long:
            return
        for slot in self._dispatchers():
            if slot.state is ChildState.RUNNING:
                slot.fence(f"no word of it for {self._silence.seconds:.0f} s")
                self._report(f"{slot.process} is killed: {slot.fence_reason}")
                self._actions.append(Signal(slot.name, signal.SIGKILL))

    def _dispatchers(self) -> list[Slot]:
        return [slot for slot in self.slots.values() if slot.kind == DISPATCHER]

    def _go_on(self, event: str) -> None:
        self.phase = move(PHASE_MOVES, self.phase, event)
        self._report(PHASE_TEXTS[self.phase])

    def _report(self, text: str) -> None:
        self._actions.append(Report(text))

    def _advance(self, now: float) -> None:
        """Go to the next phase of the end when its time has come."""
        if self._kill_at is not None and now >= self._kill_at:
            self._kill_at = None
            self._go_on("kill")
            for kind in KINDS:
                self._stop_kind(kind, signal.SIGKILL)
        if self.phase is Phase.DRAINING and self._has_ended(API):
            self._go_on("done")
            self._empty(now)
        if self.phase is Phase.STOPPING and self._has_ended(WORKER):
            self._go_on("done")
            self._stop_kind(DISPATCHER)
        if self.phase in (Phase.ENDING, Phase.KILLING) and self._has_ended(*KINDS):
            self._go_on("done")
            self._kill_at = None

    def _empty(self, now: float) -> None:
        """Have the dispatcher answer what it holds; one that is not there holds nothing."""
        if any(slot.has_process for slot in self._dispatchers()):
            self._actions.append(Send(protocol.Drain()))
            self._messenger.ask_soon(now)
        else:
            self._stop_workers()

    def _stop_workers(self) -> None:
        """Begin the workers' end: each leaves when the dispatcher says so, or is not there."""
        self._go_on("done")
        self._stop_kind(WORKER)

    def _stop_kind(self, kind: str, number: int = signal.SIGTERM) -> None:
        for slot in self.slots.values():
            if slot.kind == kind:
                is_told = slot.state is ChildState.STOPPING and number == signal.SIGTERM
                if slot.has_process and not is_told:  # a second SIGTERM would cut its answers off
                    self._actions.append(Signal(slot.name, number))
                slot.stop()

    def _has_ended(self, *kinds: str) -> bool:
        return all(s.state is ChildState.ENDED for s in self.slots.values() if s.kind in kinds)


def _is_empty(state: dict[str, Any]) -> bool:
    """Return whether a dispatcher that accepts nothing more has nothing left to answer.

    An open request may be neither queued nor held: that of a dead worker waits to be run again.
    """
    queued = sum(each["queued_requests"] for each in state["models"].values())
    held = sum(each["running"] + each["staged"] for each in state["workers"].values())
    return not queued and not held and not state.get("open_requests", 0)
