"""The requests whose outcome is owed, by gateway, and every way in which one is closed."""

from __future__ import annotations

from collections.abc import Iterable

from tfrunner.dispatcher.batches import Accepted, Batch
from tfrunner.dispatcher.models import Model
from tfrunner.dispatcher.outbox import Outbox
from tfrunner.protocol import Failure, Segment

KEPT_BYTES = 1024
"""A queue may keep so many bytes of a request for a moment after its answer."""


class Gateway:
    """One gateway: what it waits for, when it was last heard, and its shared memory."""

    __slots__ = ("heard", "requests", "segment")

    def __init__(self) -> None:
        self.heard = 0.0
        self.requests: dict[int, Accepted] = {}
        self.segment: Segment | None = None


class Requests:
    """All open requests; each is closed exactly once.

    Attributes:
        open: How many there are.
    """

    def __init__(self, models: dict[str, Model], out: Outbox) -> None:
        self._models = models
        self._out = out
        self._gateways: dict[bytes, Gateway] = {}
        self.open = 0

    def has_met(self, gateway: bytes) -> bool:
        """Whether this gateway has said Hello with our epoch."""
        return gateway in self._gateways

    def meet(self, gateway: bytes, segment: Segment | None, now: float) -> None:
        """Take in a gateway's Hello."""
        self.heard(gateway, now)
        self._gateways[gateway].segment = segment

    def segment(self, gateway: bytes) -> Segment | None:
        """Return the shared memory that a gateway has announced, if any."""
        return self._gateways[gateway].segment

    def heard(self, gateway: bytes, now: float) -> None:
        """Remember that a gateway is there."""
        known = self._gateways.get(gateway)
        if known is None:
            known = self._gateways[gateway] = Gateway()
        known.heard = now

    def silent_gateways(self, since: float) -> list[bytes]:
        """Return the gateways that wait for answers and were not heard since a moment."""
        return [g for g, known in self._gateways.items() if known.requests and known.heard <= since]

    def forget_gateways(self, since: float) -> None:
        """Forget the gateways that wait for nothing and were not heard since a moment."""
        kept = {g: k for g, k in self._gateways.items() if k.requests or k.heard > since}
        self._gateways = kept

    def knows(self, accepted: Accepted) -> bool:
        """Whether this request is open already."""
        return accepted.request.id in self._gateways[accepted.gateway].requests

    # --- ways in ------------------------------------------------------------------------------

    def accept(self, accepted: Accepted) -> None:
        """Queue a request: from now on one outcome is owed."""
        self._gateways[accepted.gateway].requests[accepted.request.id] = accepted
        self._models[accepted.request.model].enqueue(accepted)
        self.open += 1

    def refuse(
        self,
        accepted: Accepted,
        code: str,
        text: str,
        *,
        reason: str = "",
        retry_after: float | None = None,
    ) -> None:
        """Answer a request that is not taken in; it is counted under the reason, or the code."""
        failure = Failure(accepted.request.id, code, text, retry_after)
        self._out.fail(accepted.gateway, failure)
        model = self._models.get(accepted.request.model)
        if model is not None:
            model.ledger.refused[reason or code] += 1
            model.ledger.outcomes[code] += 1
        if accepted.is_lent:
            self._out.release(accepted.gateway, accepted.request.id)

    # --- shared memory ------------------------------------------------------------------------

    def hold(self, batch: Batch) -> None:
        """Note that a worker is given a batch."""
        for accepted in batch.lent:
            accepted.holders += 1

    def let_go(self, batch: Batch) -> None:
        """Note that a worker holds a batch no more: it has answered, or it was reaped.

        Nothing else ends a hold: a worker reads what it holds, whoever still waits for it.
        """
        for accepted in batch.lent:
            accepted.holders -= 1
            self._release(accepted)

    def _release(self, accepted: Accepted) -> None:
        """Tell a gateway of a lent request that is closed, and that no worker holds."""
        if accepted.is_lent and not accepted.holders and not accepted.is_open:
            self._out.release(accepted.gateway, accepted.request.id)
            accepted.is_lent = False

    # --- ways out -----------------------------------------------------------------------------

    def answer(self, accepted: Accepted, rows: int) -> None:
        """Count rows as answered; the last ones close the request."""
        accepted.remaining -= rows
        if accepted.remaining == 0 and accepted.is_open:
            self._close(accepted, "answer", "ok")

    def fail(
        self, accepted: Accepted, code: str, text: str, *, retry_after: float | None = None
    ) -> None:
        """Close a request with an error; nothing if it is closed already."""
        if accepted.is_open:
            self._close(accepted, "fail", code)
            failure = Failure(accepted.request.id, code, text, retry_after)
            self._out.fail(accepted.gateway, failure)

    def expire(self, accepted: Accepted) -> None:
        """Drop a request whose deadline passed: its gateway's own timer answers it."""
        if accepted.is_open:
            self._close(accepted, "drop", "expired")

    def drop_early(self, accepted: Accepted) -> None:
        """Refuse a queued request in favour of others: it would be answered too late."""
        text = (
            f"more requests wait than can be answered in time; the {accepted.request.timeout:g} s "
            f"of this one would be over before its answer. Try again later."
        )
        model = self._models[accepted.request.model]
        model.ledger.dropped["early"] += 1
        self.fail(accepted, "overloaded", text, retry_after=model.retry_after())

    def displace(self, accepted: Accepted) -> None:
        """Refuse a queued request: the queue is full, and its client has the most in it."""
        text = "the queue is full, and this client has more in it than others; try again later."
        model = self._models[accepted.request.model]
        model.ledger.dropped["displaced"] += 1
        self.fail(accepted, "overloaded", text, retry_after=model.retry_after())

    def cancel(self, gateway: bytes, ids: Iterable[int]) -> None:
        """Drop requests that nobody waits for."""
        known = self._gateways.get(gateway)
        for number in ids:
            if known is not None and (accepted := known.requests.get(number)) is not None:
                self._close(accepted, "drop", "cancelled")

    def drop_gateway(self, gateway: bytes) -> None:
        """Drop everything that came through a gateway that is gone."""
        known = self._gateways.get(gateway)
        if known is None:
            return
        for accepted in list(known.requests.values()):
            self._close(accepted, "drop", "caller_lost")
        del self._gateways[gateway]
        self._out.note(f"gateway {gateway.decode(errors='replace')} is gone")

    def fail_waiting(
        self, model: Model, code: str, text: str, *, retry_after: float | None = None
    ) -> None:
        """Fail every open request of a model of which nothing runs."""
        for known in self._gateways.values():
            for accepted in list(known.requests.values()):
                if accepted.request.model == model.tag:
                    self.fail(accepted, code, text, retry_after=retry_after)

    def _close(self, accepted: Accepted, event: str, outcome: str) -> None:
        accepted.move(event)
        if event != "answer" or accepted.size > KEPT_BYTES:
            accepted.drop_bodies()  # what is in a batch is held by the batch
        self.open -= 1
        model = self._models[accepted.request.model]
        if accepted.taken < accepted.weight:
            model.forget(accepted)
        model.ledger.outcomes[outcome] += 1
        if event == "drop":
            model.ledger.dropped[outcome] += 1
        del self._gateways[accepted.gateway].requests[accepted.request.id]
        self._release(accepted)
