"""The forms of predict requests and answers: which one a request has, which its answer gets.

A request's form is its Content-Type's, JSON where there is none. Its answer has the same one,
unless Accept prefers another (RFC 9110, sections 8.3 and 12.5.1).
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import NamedTuple

from tfrunner.answer import Answer
from tfrunner.api.answers import Written
from tfrunner.api.heads import Head
from tfrunner.api.json_answer import write_answer
from tfrunner.api.json_body import read_json
from tfrunner.api.msgpack_body import read_msgpack, write_msgpack
from tfrunner.api.npy_body import check_npy, read_npy, write_npy
from tfrunner.api.npz_body import check_npz, read_npz, write_npz
from tfrunner.api.raw_body import check_raw, read_raw, write_raw
from tfrunner.api.targets import Target
from tfrunner.casting import Call
from tfrunner.errors import NotAcceptable, UnsupportedForm
from tfrunner.specs import MethodSpec


class Understood(NamedTuple):
    """What a body asks for.

    Args:
        method: What is called.
        call: With what.
        by_rows: Whether it was given row by row, and is answered so.
        timeout: Seconds, None where the body says nothing about it.
    """

    method: MethodSpec
    call: Call
    by_rows: bool
    timeout: float | None = None


class Form(NamedTuple):
    """One form of bodies.

    Args:
        content_type: Its name.
        read: Returns what a body asks for.
        write: Returns the body of an answer; the second argument: by rows.
        check: Refuses, before it is called, a method whose outputs it cannot hold.
    """

    content_type: bytes
    read: Callable[[Target, bytes, Head, int], Understood]
    write: Callable[[Answer, bool], Written]
    check: Callable[[MethodSpec], None] | None = None


class Forms(NamedTuple):
    """The form of a request, and that of its answer."""

    request: Form
    answer: Form


def _read_json(target: Target, body: bytes, head: Head, limit: int) -> Understood:
    found = read_json(body, find_method=target.find_method, fast=target.fast)
    return Understood(*found)


def _write_json(answer: Answer, by_rows: bool) -> Written:
    return Written((write_answer(answer, by_rows=by_rows),))


def _read_msgpack(target: Target, body: bytes, head: Head, limit: int) -> Understood:
    found = read_msgpack(body, find_method=target.find_method)
    return Understood(found.method, found.call, False, found.timeout)


def _write_msgpack(answer: Answer, by_rows: bool) -> Written:
    return Written((write_msgpack(answer),))


def _read_npy(target: Target, body: bytes, head: Head, limit: int) -> Understood:
    method = target.find_method(head.method_name())
    return Understood(method, read_npy(body, method), is_by_rows(method))


def _read_raw(target: Target, body: bytes, head: Head, limit: int) -> Understood:
    method = target.find_method(head.method_name())
    call = read_raw(body, method, dtype=head.dtype, shape=head.shape)
    return Understood(method, call, is_by_rows(method))


def _read_npz(target: Target, body: bytes, head: Head, limit: int) -> Understood:
    method = target.find_method(head.method_name())
    return Understood(method, read_npz(body, method, limit=limit), is_by_rows(method))


def is_by_rows(method: MethodSpec) -> bool:
    """Whether a call with whole arrays is one by rows: JSON answers are then `predictions`."""
    return method.batchable and method.batch_dim == (0, 0)


JSON = Form(b"application/json", _read_json, _write_json)
MSGPACK = Form(b"application/x-msgpack", _read_msgpack, _write_msgpack)
NPY = Form(b"application/x-npy", _read_npy, write_npy, check_npy)
RAW = Form(b"application/octet-stream", _read_raw, write_raw, check_raw)
NPZ = Form(b"application/x-npz", _read_npz, write_npz, check_npz)

FORMS = {form.content_type: form for form in (JSON, MSGPACK, NPY, RAW, NPZ)}
"""By content type; the first goes before the others where Accept prefers none."""

USUAL = Forms(JSON, JSON)
NAMES = b", ".join(FORMS).decode()
AS_JSON = (b"application/x-www-form-urlencoded", b"")
"""What clients say of JSON that have not been told what it is: curl's -d, for one."""


def choose_forms(head: Head) -> Forms:
    """Return the form of a request and that of its answer.

    Raises:
        UnsupportedForm: There is no such form of bodies.
        NotAcceptable: There is none that the caller accepts.
    """
    if head.content_type in (b"application/json", b"") and head.accept in (b"", b"*/*"):
        return USUAL
    return _choose(head.content_type, head.accept)


@functools.lru_cache(maxsize=64)
def _choose(content_type: bytes, accept: bytes) -> Forms:
    own = form_of(content_type)
    return Forms(own, preferred(accept, own) if accept else own)


def form_of(content_type: bytes) -> Form:
    """Return the form of a body with this Content-Type.

    Raises:
        UnsupportedForm: There is none.
    """
    name = content_type.partition(b";")[0].strip().lower()
    form = FORMS.get(name)
    if form is not None:
        return form
    if name in AS_JSON or name.startswith(b"text/") or name.endswith((b"+json", b"/json")):
        return JSON
    raise UnsupportedForm(
        f"bodies of Content-Type {name.decode('latin-1')!r} are not understood. Send one of: "
        f"{NAMES}."
    )


def preferred(accept: bytes, own: Form) -> Form:
    """Return the form that the caller prefers; the request's own where it goes before none.

    Raises:
        NotAcceptable: The caller accepts none of ours.
    """
    ranges = dict(_range(part) for part in accept.lower().split(b",") if part.strip())
    weights = {form: _weight(ranges, form.content_type) for form in (own, *FORMS.values())}
    best = max(weights, key=weights.__getitem__)  # the first of equals: its own
    if weights[best] <= 0:
        raise NotAcceptable(
            f"none of the forms that Accept: {accept.decode('latin-1')} names can be answered "
            f"with. Accept one of: {NAMES}."
        )
    return best


def _range(part: bytes) -> tuple[bytes, float]:
    """Return a media range and its weight, 0 where the weight is no number."""
    name, *parameters = (piece.strip() for piece in part.split(b";"))
    for parameter in parameters:
        if parameter.startswith(b"q="):
            try:
                return name, float(parameter[2:])
            except ValueError:
                return name, 0.0
    return name, 1.0


def _weight(ranges: dict[bytes, float], content_type: bytes) -> float:
    """Return the weight of the most specific range that fits a content type."""
    for name in (content_type, content_type.partition(b"/")[0] + b"/*", b"*/*", b"*"):
        if name in ranges:
            return ranges[name]
    return 0.0
