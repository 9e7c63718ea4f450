"""Every error that a caller of tfrunner can see.

    TFRunnerError                   internal              500
    ├── InvalidInput                invalid_input         400
    ├── Unauthorized                unauthorized          401
    ├── Forbidden                   forbidden             403
    ├── NotFound                    not_found             404
    ├── AlreadyExists               already_exists        409
    ├── TooLarge                    too_large             413
    ├── TooSlow                     too_slow              408
    ├── RateLimited                 rate_limited          429
    ├── NotAcceptable               not_acceptable        406
    ├── UnsupportedForm             unsupported_form      415
    ├── ModelError                  model_error           500
    │   ├── OutOfMemory             out_of_memory         500
    │   └── PoisonRequest           poison_request        500
    ├── Unavailable                 unavailable           503
    │   ├── Overloaded              overloaded            503
    │   └── WorkerLost              worker_lost           503
    ├── DeadlineExceeded            deadline_exceeded     504   (also a TimeoutError)
    ├── CorruptModel                corrupt_model         500
    ├── StateError                  state_error           500
    ├── NotWritten                  not_written           500
    ├── ConfigError                 config_error          500
    └── ProtocolError               protocol_error        400

The wire carries `code` and the message; `from_wire` turns them back into the class.
Tracebacks of model code stay in the worker's log.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import ClassVar


class TFRunnerError(Exception):
    """Something went wrong inside tfrunner.

    Args:
        message: What happened, what was expected, what to do.
        retry_after: Seconds after which the same call may succeed, where that is known.
        request_id: The id of the failed request, where there is one.
    """

    code: ClassVar[str] = "internal"
    status: ClassVar[int] = 500

    def __init__(
        self, message: str, *, retry_after: float | None = None, request_id: str | None = None
    ) -> None:
        super().__init__(message)
        self.message = message
        self.retry_after = retry_after
        self.request_id = request_id


class InvalidInput(TFRunnerError):
    """The input does not fit the model's specification."""

    code = "invalid_input"
    status = 400


class Unauthorized(TFRunnerError):
    """The request has no API key, or one that the server does not know."""

    code = "unauthorized"
    status = 401


class Forbidden(TFRunnerError):
    """Web pages of that origin may not call the server."""

    code = "forbidden"
    status = 403


class NotFound(TFRunnerError):
    """No model, version, method or server has that name."""

    code = "not_found"
    status = 404


class AlreadyExists(TFRunnerError):
    """The tag is taken; saved models are never overwritten."""

    code = "already_exists"
    status = 409


class TooLarge(TFRunnerError):
    """The request is larger than the configured limit."""

    code = "too_large"
    status = 413


class TooSlow(TFRunnerError):
    """The request did not arrive in time."""

    code = "too_slow"
    status = 408


class RateLimited(TFRunnerError):
    """The API key has used what it may use for now."""

    code = "rate_limited"
    status = 429


class NotAcceptable(TFRunnerError):
    """The answer cannot be given in a form that the caller accepts."""

    code = "not_acceptable"
    status = 406


class UnsupportedForm(TFRunnerError):
    """The request's body has a form that is not understood, or that the method cannot have."""

    code = "unsupported_form"
    status = 415


class ModelError(TFRunnerError):
    """The model's own code raised, or returned what cannot be answered with."""

    code = "model_error"


class OutOfMemory(ModelError):
    """The device's memory does not hold even one row of the request."""

    code = "out_of_memory"


class PoisonRequest(ModelError):
    """The request ended the worker process that ran it, alone."""

    code = "poison_request"


class Unavailable(TFRunnerError):
    """The server cannot answer now; the message says why."""

    code = "unavailable"
    status = 503


class Overloaded(Unavailable):
    """The queue is full, or the wait would be longer than the deadline."""

    code = "overloaded"


class WorkerLost(Unavailable):
    """A worker died while it ran a request that must not be run twice."""

    code = "worker_lost"


class DeadlineExceeded(TFRunnerError, TimeoutError):
    """No answer came within the request's timeout."""

    code = "deadline_exceeded"
    status = 504


class CorruptModel(TFRunnerError):
    """An entry of the model store cannot be read."""

    code = "corrupt_model"


class StateError(TFRunnerError):
    """The call does not fit the object's present state."""

    code = "state_error"


class NotWritten(TFRunnerError):
    """The disk is full, or the place may not be written to; nothing half is left there."""

    code = "not_written"


class ConfigError(TFRunnerError):
    """A setting is unknown or out of range."""

    code = "config_error"


class ProtocolError(TFRunnerError):
    """A message does not follow the protocol."""

    code = "protocol_error"
    status = 400


def _classes(base: type[TFRunnerError]) -> Iterable[type[TFRunnerError]]:
    yield base
    for child in base.__subclasses__():
        yield from _classes(child)


BY_CODE: dict[str, type[TFRunnerError]] = {cls.code: cls for cls in _classes(TFRunnerError)}


def from_wire(code: str, message: str, *, retry_after: float | None = None) -> TFRunnerError:
    """Return the error that `code` names; an unknown code becomes a TFRunnerError."""
    return BY_CODE.get(code, TFRunnerError)(message, retry_after=retry_after)


def did_you_mean(wrong: str, known: Iterable[str]) -> str:
    """Return ' Did you mean ...?' for the nearest known name, or what there is."""
    names = sorted(known)
    near = difflib.get_close_matches(wrong, names, n=1)
    if near:
        return f" Did you mean {near[0]!r}?"
    if not names:
        return " There are none."
    shown = ", ".join(names[:10]) + (", ..." if len(names) > 10 else "")
    return f" There are: {shown}."
