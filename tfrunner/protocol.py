"""Every message that crosses a process border, and its encoding.

Messages are frozen and grouped by link and direction; a union per direction says what a
receiver accepts. They travel as MessagePack; decoding checks tag, arity and every type.
There is no pickle. A body (the bytes of a tensor) below INLINE_BYTES travels inside the
message (measured: a ZeroMQ frame costs 2.5 us, inline bytes 0.1 us); a larger one is a frame
of its own, never copied, or lies in shared memory, and the message says where
(`shared_memory`). No body is opened here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar, Union

import msgspec

from tfrunner.errors import ProtocolError

INLINE_BYTES = 8192

Buffer = Union[bytes, memoryview]
Number = Annotated[int, msgspec.Meta(ge=0)]
Size = Annotated[int, msgspec.Meta(ge=0, le=2**48)]
Seconds = Annotated[float, msgspec.Meta(ge=0.0, le=1e9)]
"""Neither negative nor NaN nor infinite: a deadline is made of it."""


LARGEST_PRIORITY = 8
Priority = Annotated[int, msgspec.Meta(ge=-LARGEST_PRIORITY, le=LARGEST_PRIORITY)]


class Message(
    msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag=True, gc=False
):
    """Base of all messages."""


class Place(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, gc=False):
    """Where a body lies in its gateway's segment, in bytes."""

    offset: Size
    length: Size

    def __len__(self) -> int:
        return self.length


class Segment(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, gc=False):
    """A gateway's shared memory: the descriptor of its process that holds it, and its bytes.

    `name` is that of the memory file: no other segment has ever had it.
    """

    name: str
    pid: Number
    descriptor: Number
    size: Size


Body = Union[bytes, int]
"""On the wire: the bytes, or the number of the frame that holds them."""

if TYPE_CHECKING:
    Bodies = tuple[Any, ...]  # of Buffer, as everyone but the wire sees them
    LentBodies = tuple[Any, ...]  # of Buffer or Place
else:
    Bodies = tuple[Body, ...]  # what the decoder checks
    LentBodies = tuple[Union[Body, Place], ...]


class Part(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, gc=False):
    """Rows `start` to `stop` of one request, as a worker gets them.

    `bodies` are those of the whole request; the worker slices its range.
    """

    request: Number
    start: Number
    stop: Number
    rows: Number
    bodies: LentBodies


class Span(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, gc=False):
    """Rows `start` to `stop` of one request, of `rows` in all, as its gateway gets them back."""

    request: Number
    start: Number
    stop: Number
    rows: Number


# --- gateway -> dispatcher (frontend) -----------------------------------------------------


class Hello(Message, frozen=True):
    """I am here; I know this epoch ("" at first). Sent at start and every HELLO_SECONDS.

    `segment` is where bodies lie that this peer sends from now on; None: in no shared memory.
    """

    name: str
    epoch: str = ""
    segment: Segment | None = None


class Request(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, gc=False):
    """One call of one method.

    Args:
        id: Number of the request, unique within its gateway.
        model: Tag of the model, with its version.
        method: Name of the method.
        layout: What must be equal for two requests to be merged; opaque here.
        rows: How many rows the request has; 1 where the method is not batchable.
        timeout: Seconds left.
        client: Whose fair share it is counted against.
        bodies: The bytes of its tensors, in the order of the layout, or where they lie.
        priority: Its share against others doubles with each step.
    """

    id: Number
    model: str
    method: str
    layout: bytes
    rows: Number
    timeout: Seconds
    client: str
    bodies: LentBodies
    priority: Priority = 0


class Submit(Message, frozen=True):
    """Every request that the gateway was given in one turn of its event loop."""

    requests: tuple[Request, ...]


class Cancel(Message, frozen=True):
    """Nobody waits for these requests any more."""

    ids: tuple[int, ...]


class Ask(Message, frozen=True):
    """Send me a Status with this number; with `told`, also what users' own metrics add up to."""

    id: int
    told: bool = False


class Count(Message, frozen=True):
    """Add these amounts to counters of the front desk: (name, label, amount)."""

    amounts: tuple[tuple[str, str, float], ...]


Rule = Literal["sum", "max", "min", "last"]


class Family(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, gc=False):
    """A metric of a user's own, as its module declares it.

    Args:
        labels: Names of its labels.
        bounds: Upper bounds of a histogram's buckets, rising; the last bucket has none.
        rule: How a gauge's values of several processes become one.
    """

    name: str
    kind: Literal["counter", "gauge", "histogram", "summary"]
    text: str
    labels: tuple[str, ...] = ()
    bounds: tuple[float, ...] = ()
    rule: Rule = "sum"


def family_data(family: Family) -> dict[str, Any]:
    """Return how a metric was declared as plain data, apart from its rule."""
    return {
        "name": family.name,
        "kind": family.kind,
        "text": family.text,
        "labels": family.labels,
        "bounds": family.bounds,
    }


class Reading(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, gc=False):
    """What one process has counted since its start under one set of labels.

    Args:
        family: Its place among the families of the report.
        values: The labels' values.
        numbers: A value; of a summary count and sum, of a histogram each bucket's count and the
            sum.
        age: Seconds since it changed.
    """

    family: Number
    values: tuple[str, ...]
    numbers: tuple[float, ...]
    age: Seconds = 0.0


class Report(Message, frozen=True):
    """A process's own metrics that have changed since its last report in this epoch.

    `process` is unique for each process start, as in Processes.
    """

    process: str
    epoch: str
    families: tuple[Family, ...]
    readings: tuple[Reading, ...]


# --- dispatcher -> gateway ------------------------------------------------------------------


class Welcome(Message, frozen=True):
    """The answer to a Hello: this is my life's name.

    `models` are encoded ModelSpecs, and only sent where the Hello knew another epoch.
    """

    epoch: str
    models: tuple[bytes, ...] = ()


class Block(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, gc=False):
    """Rows of one gateway out of one batch: outputs stacked in the order of the spans.

    `timing` says where the time went, in seconds. A worker sends (gather, run, scatter), or
    nothing; the dispatcher puts before it how long the first of the requests was queued, and
    says how many rows the whole batch had; 0: that is not known.
    """

    spans: tuple[Span, ...]
    layout: bytes
    bodies: Bodies
    timing: tuple[float, ...] = ()
    batch_rows: Number = 0


class Results(Message, frozen=True):
    """Answers; one message for each gateway and turn.

    `released` are requests with bodies in shared memory, each once: their outcome is known, no
    worker holds them any more, and what they lie in may be used again.
    """

    blocks: tuple[Block, ...]
    released: tuple[int, ...] = ()


class Failure(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, gc=False):
    """Why one request fails; `code` is that of an error class."""

    request: int
    code: str
    message: str
    retry_after: float | None = None


class Failures(Message, frozen=True):
    """Refusals and failures; one message for each gateway and turn."""

    failures: tuple[Failure, ...]


class Status(Message, frozen=True):
    """The dispatcher's whole state as plain data, for `/metrics`, `/readyz` and the CLI."""

    id: int
    state: dict[str, Any]


# --- worker -> dispatcher (backend) ---------------------------------------------------------


class MethodState(
    msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, gc=False
):
    """How a worker runs a method; `note` says why batching is off where it was wanted.

    `costs` are (rows, seconds) measured at warm-up. `sizes` are those that it may run; it pads
    a batch to the next one; (): any size. `plan` names the way in which it executes the method,
    `gain` says how many times as fast as the restored function that is, `reason` why.
    `cpu_seconds` is what a full batch costs all its threads; 0 where it was not measured.
    `parts` says into how many at most it splits a batch; each keeps one of its threads busy.
    """

    name: str
    batchable: bool
    repeatable: bool
    note: str = ""
    costs: tuple[tuple[Number, Seconds], ...] = ()
    sizes: tuple[Number, ...] = ()
    plan: str = ""
    gain: float = 0.0
    reason: str = ""
    cpu_seconds: Seconds = 0.0
    parts: Number = 1


class WorkerHello(Message, frozen=True):
    """A worker is here; `ready` once its model is loaded and warm. Sent every HELLO_SECONDS.

    `load_error` says why the model cannot be served; such a worker exits. `device_class` is
    equal for devices on which a batch costs the same.
    """

    name: str
    epoch: str
    model: str
    pid: int
    device: str
    ready: bool
    methods: tuple[MethodState, ...]
    load_error: str = ""
    device_class: str = ""


class Leave(Message, frozen=True):
    """Give me no more batches, and say Stop once I hold none; `reason` is for the log.

    One that `may_wait` is only a wish: it serves on, and asks again, until its turn comes.
    """

    reason: str
    may_wait: bool = False


class BlockFor(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, gc=False):
    """A block and the gateway that it goes to."""

    gateway: bytes
    block: Block


class BatchDone(Message, frozen=True):
    """A batch's outputs, one block for each gateway. `seconds` is the model's own time.

    `cost` is how long that kept the worker busy, where other batches ran beside it.
    """

    batch: int
    attempt: int
    seconds: Seconds
    blocks: tuple[BlockFor, ...]
    cost: Seconds | None = None


class BatchFailed(Message, frozen=True):
    """The model raised, or its rows do not match; the traceback is in the worker's log.

    `gateways` are those whose shared memory was refused: the others' requests may run at once.
    """

    batch: int
    attempt: int
    code: str
    message: str
    gateways: tuple[bytes, ...] = ()


# --- dispatcher -> worker -------------------------------------------------------------------


class PartsOf(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, gc=False):
    """The parts of a batch that came through one gateway, and the segment that some lie in."""

    gateway: bytes
    parts: tuple[Part, ...]
    segment: Segment | None = None


class RunBatch(Message, frozen=True):
    """Run this method once over these rows; answer with the same batch and attempt."""

    batch: int
    attempt: int
    method: str
    layout: bytes
    rows: int
    groups: tuple[PartsOf, ...]


class Stop(Message, frozen=True):
    """Finish what you hold, then exit."""


# --- supervisor <-> dispatcher (backend) ----------------------------------------------------


class SupervisorHello(Message, frozen=True):
    """The supervisor is here."""

    name: str
    epoch: str = ""


class WorkerGone(Message, frozen=True):
    """The process of this worker was reaped; nothing of it runs any more."""

    worker: str
    reason: str


class Processes(Message, frozen=True):
    """What the supervisor sees of its children: plain rows for metrics and status."""

    rows: tuple[dict[str, Any], ...]


class ModelUnavailable(Message, frozen=True):
    """No worker of this model can be had, and why; "" takes that back."""

    model: str
    reason: str


class Drain(Message, frozen=True):
    """Accept no new requests; answer what is queued."""


class Fence(Message, frozen=True):
    """Kill this worker with -9, reap it, and answer WorkerGone."""

    worker: str
    reason: str


FromGateway = Union[Hello, Submit, Cancel, Ask, Count, Report]
ToGateway = Union[Welcome, Results, Failures, Status]
FromWorker = Union[WorkerHello, Leave, BatchDone, BatchFailed, Report]
ToWorker = Union[Welcome, RunBatch, Stop]
FromSupervisor = Union[SupervisorHello, WorkerGone, Processes, ModelUnavailable, Drain, Ask]
ToSupervisor = Union[Welcome, Fence, Status]
FromBackend = Union[FromWorker, FromSupervisor]

HELLO_SECONDS = 0.5

SEGMENT_REFUSED = "segment_refused"
"""Code of a failure that only its gateway sees: it sends the request again, as frames."""

T = TypeVar("T")
_encoder = msgspec.msgpack.Encoder()


def encode(message: Message) -> list[Buffer]:
    """Return the frames of a message: itself, then its large bodies."""
    frames: list[Buffer] = [b""]
    match message:
        case Submit(requests=requests):
            message = Submit(_externalize(requests, frames))
        case RunBatch(groups=groups):
            outside = tuple(
                PartsOf(g.gateway, _externalize(g.parts, frames), g.segment) for g in groups
            )
            if len(frames) > 1:
                message = msgspec.structs.replace(message, groups=outside)
        case Results(blocks=blocks, released=released):
            message = Results(_externalize(blocks, frames), released)
        case BatchDone(blocks=addressed):
            kept = _externalize([b.block for b in addressed], frames)
            if len(frames) > 1:
                message = msgspec.structs.replace(message, blocks=_readdress(addressed, kept))
    frames[0] = _encoder.encode(message)
    return frames


def _externalize(items: Sequence[T], frames: list[Buffer]) -> tuple[T, ...]:
    """Move large bodies out of structs that have `bodies`, into `frames`."""
    moved = list(items)
    for index, item in enumerate(items):
        bodies: tuple[Any, ...] = item.bodies  # type: ignore[attr-defined]
        for body in bodies:
            if len(body) >= INLINE_BYTES:
                break
        else:
            continue
        kept: list[Body | Place] = []
        for body in bodies:
            if type(body) is Place:
                kept.append(body)
            elif len(body) < INLINE_BYTES:
                kept.append(bytes(body))
            else:
                frames.append(body)
                kept.append(len(frames) - 1)
        moved[index] = msgspec.structs.replace(item, bodies=tuple(kept))  # type: ignore[type-var]
    return tuple(moved)


class Decoder:
    """Decodes the messages of one direction; refuses all others."""

    def __init__(self, accepted: Any) -> None:
        self._decoder = msgspec.msgpack.Decoder(accepted)

    def decode(self, frames: Sequence[Buffer]) -> Any:
        """Return the message, its bodies in place.

        Raises:
            ProtocolError: The frames do not hold one of the accepted messages.
        """
        try:
            message = self._decoder.decode(frames[0])
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, IndexError) as exc:
            raise ProtocolError(f"a message was refused: {exc}") from exc
        if isinstance(message, (Submit, RunBatch, Results, BatchDone)):
            return _internalize(message, frames)
        if len(frames) > 1:
            raise ProtocolError(f"{type(message).__name__} carries no bodies, yet came with frames")
        return message


def _internalize(message: Any, frames: Sequence[Buffer]) -> Any:
    """Put frames back into the bodies of a message."""
    match message:
        case Submit(requests=requests):
            inner = _take_all(requests, frames)
            return message if inner is requests else Submit(inner)
        case Results(blocks=blocks, released=released):
            inside = _take_all(blocks, frames)
            return message if inside is blocks else Results(inside, released)
        case RunBatch(groups=groups):
            taken = tuple(PartsOf(g.gateway, _take_all(g.parts, frames), g.segment) for g in groups)
            return msgspec.structs.replace(message, groups=taken)
        case BatchDone(blocks=addressed):
            kept = _take_all(tuple(b.block for b in addressed), frames)
            return msgspec.structs.replace(message, blocks=_readdress(addressed, kept))


def _readdress(addressed: Sequence[BlockFor], blocks: Sequence[Block]) -> tuple[BlockFor, ...]:
    return tuple(BlockFor(a.gateway, b) for a, b in zip(addressed, blocks, strict=True))


def _take_all(items: tuple[T, ...], frames: Sequence[Buffer]) -> tuple[T, ...]:
    """Return the same items if no body is a frame (the usual case), else new ones."""
    for item in items:
        for body in item.bodies:  # type: ignore[attr-defined]
            if type(body) is int:
                return tuple(_take(each, frames) for each in items)
    return items


def _take(item: T, frames: Sequence[Buffer]) -> T:
    bodies: tuple[Any, ...] = item.bodies  # type: ignore[attr-defined]
    taken: list[Buffer] = []
    for body in bodies:
        if type(body) is not int:
            taken.append(body)
        elif 0 < body < len(frames):
            taken.append(frames[body])
        else:
            raise ProtocolError(f"a message names frame {body}; it has 1 to {len(frames) - 1}")
    return msgspec.structs.replace(item, bodies=tuple(taken))  # type: ignore[type-var]
