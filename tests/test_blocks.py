"""What comes back for a batch: nobody is failed by another's rows, and parts fit together."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.gateway_world import block, rows
from tfrunner import protocol as p
from tfrunner.answer import Answer, Outcome
from tfrunner.errors import ModelError, TFRunnerError
from tfrunner.objects import OBJECT
from tfrunner.pending import Pending
from tfrunner.ragged import rows_array
from tfrunner.specs import ANY, DictSpec, Node, TensorSpec, TupleSpec
from tfrunner.tensors import Array, Layout, Leaf, encode_layout, to_body

Y = TensorSpec("y", ANY, None)


def waiting(*requests: int) -> Pending[int]:
    """Return unanswered requests 1, 2, ... with so many rows; each is its own waiter."""
    pending: Pending[int] = Pending()
    for id, count in enumerate(requests, 1):
        request = p.Request(id, "m:1", "__call__", b"", count, 9.0, "", (b"x",))
        pending.add(request, deadline=9.0, waiter=id)
    return pending


def values(spans: list[tuple[int, int, int, int]], elements: list[bytes]) -> p.Block:
    """Return a block of plain values, each as the bytes that it travels as."""
    layout = encode_layout(Layout((Leaf(OBJECT, (None,)),), Y))
    body = b"".join(len(each).to_bytes(4, "little") + each for each in elements)
    return p.Block(tuple(p.Span(*span) for span in spans), layout, (body,))


def outcomes(pending: Pending[int], *blocks: p.Block) -> dict[int, Outcome]:
    """Return what each waiter gets."""
    return dict(pending.take(p.Results(blocks)))


GOOD = to_body(rows_array(["good"]), Leaf(OBJECT, (None,)))[4:]
KEYED_BY_A_LIST = b"\x81\x91\x01\x02"
BAD = {
    "keyed by a list": KEYED_BY_A_LIST,
    "cut short": b"\xa5abc",
    "no array": b"\x81\xc4\x02nd\x01",
}


@pytest.mark.parametrize("bad", BAD.values(), ids=BAD)
def test_a_value_that_cannot_be_read_fails_its_own_request(bad: bytes) -> None:
    """The neighbours in the batch get their rows."""
    pending = waiting(2, 1, 1)
    spans = [(1, 0, 2, 2), (2, 0, 1, 1), (3, 0, 1, 1)]
    found = outcomes(pending, values(spans, [GOOD, GOOD, bad, GOOD]))
    assert isinstance(found[2], TFRunnerError) and "cannot be read" in str(found[2])
    for id, count in ((1, 2), (3, 1)):
        answer = found[id]
        assert isinstance(answer, Answer)
        assert answer.value() == ["good"] * count
    assert not pending


@pytest.mark.parametrize(
    "elements",
    [[GOOD, GOOD], [GOOD, GOOD, GOOD, GOOD], []],
    ids=["a row short", "a row more", "no rows"],
)
def test_a_block_whose_rows_cannot_be_told_apart_fails_them_all(elements: list[bytes]) -> None:
    """Nobody gets rows that may be another's."""
    found = outcomes(waiting(2, 1), values([(1, 0, 2, 2), (2, 0, 1, 1)], elements))
    assert [type(found[id]) for id in (1, 2)] == [TFRunnerError, TFRunnerError]


def parts(*given: tuple[Node, list[Array]]) -> Outcome:
    """Return what a request comes to whose parts, of two rows each, have these outputs."""
    pending, count = waiting(2 * len(given)), 2 * len(given)
    blocks = [
        block([(1, 2 * n, 2 * n + 2, count)], *arrays, structure=structure)
        for n, (structure, arrays) in enumerate(given)
    ]
    return outcomes(pending, *blocks)[1]


def test_parts_of_one_form_become_one_answer() -> None:
    """In the order of their rows, in the structure that all have."""
    structure = DictSpec({"a": Y, "b": Y})
    answer = parts(*[(structure, [rows(n, n + 2), rows(n + 50, n + 52)]) for n in (0, 2, 4)])
    assert isinstance(answer, Answer)
    np.testing.assert_array_equal(answer.value()["b"], rows(50, 56))


OTHERS: dict[str, Any] = {
    "another key": ((DictSpec({"b": Y}), [rows(0, 2)]), "named differently"),
    "another structure": ((TupleSpec((Y,)), [rows(0, 2)]), "nested"),
    "more outputs": ((DictSpec({"a": Y, "b": Y}), [rows(0, 2), rows(0, 2)]), "nested"),
    "another dtype": ((DictSpec({"a": Y}), [rows(0, 2).astype("int64")]), "dtypes differ"),
    "another shape": ((DictSpec({"a": Y}), [np.zeros((2, 3), "float32")]), "array dimensions"),
}


@pytest.mark.parametrize(("other", "why"), OTHERS.values(), ids=OTHERS)
@pytest.mark.parametrize("is_last", [True, False], ids=["last", "first"])
def test_parts_of_different_forms_are_a_model_error(
    other: tuple[Node, list[Array]], why: str, is_last: bool
) -> None:
    """Nothing is joined under a name, or cast to a dtype, that some rows do not have."""
    usual: tuple[Node, list[Array]] = (DictSpec({"a": Y}), [rows(0, 2)])
    found = parts(*([usual, other] if is_last else [other, usual]))
    assert isinstance(found, ModelError)
    assert "2 parts of this request do not fit together" in found.message
    assert why in found.message
