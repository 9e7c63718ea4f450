"""Answers on their way from the exchange, under the driver's lock, to the threads that wait.

They are set without the lock, since that calls users' code.
"""

from __future__ import annotations

from collections import deque
from concurrent.futures import InvalidStateError

from tfrunner.answer import Answer, Outcome
from tfrunner.exchange import Exchange, Settled, Waiter
from tfrunner.values import in_python

Outcomes = deque[Settled]


def is_settled(exchange: Exchange, outcomes: Outcomes) -> bool:
    """Whether no answer is awaited, nor on its way."""
    return not outcomes and exchange.is_settled


def deliver(exchange: Exchange, outcomes: Outcomes) -> bool:
    """Set the promises that have an answer; return whether there was one."""
    if not outcomes:
        return False
    while outcomes:
        try:
            item = outcomes.popleft()
        except IndexError:  # another thread took it
            break
        waiter, outcome = item
        try:
            if type(outcome) is Answer and not waiter.cuts:
                waiter.set_result(in_python(outcome.structure, outcome.arrays))
            else:
                _settle(exchange, waiter, outcome)
        except InvalidStateError:
            continue  # it was cancelled meanwhile
        except BaseException:
            outcomes.appendleft(item)
            raise
    return True


def _settle(exchange: Exchange, waiter: Waiter, outcome: Outcome) -> None:
    if isinstance(outcome, Answer):
        waiter.set_result(outcome.without(waiter.cuts).value())
    else:
        exchange.settle(waiter, outcome)
