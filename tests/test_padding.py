"""Inputs of variable length: filled up to buckets on the way in, outputs cut on the way out."""

from __future__ import annotations

import numpy as np
import pytest

from tfrunner.casting import cast
from tfrunner.errors import InvalidInput
from tfrunner.padding import Short, bucket, cut_back
from tfrunner.specs import Argument, Cut, MethodSpec, Padding, TensorSpec, TupleSpec
from tfrunner.tensors import decode_layout, unpack

TOKENS = TensorSpec("tokens", "int64", (None, None))
WEIGHTS = TensorSpec("weights", "float32", (None, 2))
METHOD = MethodSpec(
    "__call__",
    (Argument("tokens", TOKENS), Argument("weights", WEIGHTS)),
    batchable=True,
    padding=(Padding("tokens", 1, -1, (4, 8)),),
    cuts=(Cut("states", 1, "tokens"),),
)


def filled(tokens: object, rows: int = 1) -> tuple[list[list[int]], tuple[Short, ...], bytes]:
    """Return the tokens that travel, the cuts of the outputs, and the layout."""
    sent = cast(METHOD, [tokens, np.zeros((rows, 2))], {})
    arrays = unpack(decode_layout(sent.layout), sent.bodies, sent.rows)
    return arrays[0].tolist(), sent.cuts, sent.layout


def test_an_input_is_filled_up_to_the_next_bucket() -> None:
    """With the declared value, at the end."""
    assert filled([[1, 2, 3]])[0] == [[1, 2, 3, -1]]
    assert filled([[1, 2, 3, 4]])[0] == [[1, 2, 3, 4]]
    assert filled([[1, 2, 3, 4, 5]])[0] == [[1, 2, 3, 4, 5, -1, -1, -1]]
    assert filled([[]])[0] == [[-1] * 4]


def test_requests_of_one_bucket_share_a_layout() -> None:
    """So they are merged; those of another are not."""
    assert filled([[1]])[2] == filled([[1, 2, 3, 4]])[2] != filled([[1] * 5])[2]


def test_rows_of_different_lengths_are_filled_up_too() -> None:
    """To the longest of the request first."""
    rows, cuts, _ = filled([[1, 2, 3], [4]], rows=2)
    assert rows == [[1, 2, 3, -1], [4, -1, -1, -1]]
    assert cuts == (Short("states", 1, 3),)


def test_without_buckets_they_are_powers_of_two() -> None:
    """From eight."""
    padding = Padding("tokens", 1)
    assert [bucket(padding, n) for n in (0, 1, 8, 9, 16, 17)] == [8, 8, 8, 16, 16, 32]


def test_what_is_longer_than_the_largest_bucket_is_refused() -> None:
    """With the length and the limit."""
    with pytest.raises(InvalidInput) as caught:
        filled([[1] * 9])
    assert "length 9" in caught.value.message
    assert "at most 8" in caught.value.message


@pytest.mark.parametrize("shape", [(10**9, 0), (1, 0, 10**9)], ids=["rows", "another axis"])
def test_what_has_no_elements_claims_no_memory(shape: tuple[int, ...]) -> None:
    """A body of no bytes says any shape; nothing is filled up for it."""
    spec = TensorSpec("x", "float32", (None,) * len(shape))
    method = MethodSpec("m", (Argument("x", spec),), batchable=True, padding=(Padding("x", 1),))
    with pytest.raises(InvalidInput, match=r"without a single value|no elements"):
        cast(method, (np.empty(shape, "float32"),), {})
    few = np.empty([min(size, 4) for size in shape], "float32")
    assert cast(method, (few,), {}).rows == len(few)


def test_outputs_are_cut_back_where_declared() -> None:
    """Other outputs, and other axes, are left alone."""
    structure = TupleSpec(
        (TensorSpec("states", "float32", (None, None, 3)), TensorSpec("label", "int64", (None,)))
    )
    states, label = np.ones((2, 4, 3)), np.arange(2)
    kept = cut_back(structure, [states, label], (Short("states", 1, 3),))
    assert kept[0].shape == (2, 3, 3)
    assert kept[1] is label
