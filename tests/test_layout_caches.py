"""What is remembered of layouts: those that come again, and never all that ever came."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable

import numpy as np
import pytest

from tfrunner.blocks import result_form
from tfrunner.casting import MOST_BROADCAST, cast
from tfrunner.errors import InvalidInput
from tfrunner.specs import ANY, Argument, DictSpec, MethodSpec, TensorSpec
from tfrunner.tensors import (
    Layout,
    Leaf,
    decode_layout,
    encode_layout,
    from_body,
    write_layout,
)

METHOD = MethodSpec(
    "ask",
    (
        Argument("rows", TensorSpec("rows", "float32", (None, 2))),
        Argument("context", TensorSpec("context", ANY, ())),
    ),
    batchable=True,
)
ROWS = np.ones((3, 2), np.float32)
LARGE = 50_000
TIMES = 100


def layout_with(text: str) -> Layout:
    """Return a layout with a value."""
    return Layout((Leaf("float32", (None, 2)), Leaf("string", (), text.encode())))


def named(number: int) -> Layout:
    """Return the layout of a result with hundreds of outputs that nobody else has."""
    names = [f"the output of number {number}, or rather its {n}" for n in range(LARGE // 50)]
    structure = DictSpec({name: TensorSpec(name, "float32", None) for name in names})
    return Layout((Leaf("float32", (None,)),) * len(names), structure)


WAYS: dict[str, Callable[[int], object]] = {
    "a call": lambda n: cast(METHOD, (ROWS, "x" * LARGE + str(n)), {}),
    "a worker reads": lambda n: decode_layout(write_layout(layout_with("x" * LARGE + str(n)))),
    "a worker writes": lambda n: encode_layout(named(n)),
    "a gateway reads": lambda n: result_form(write_layout(named(n))),
}


@pytest.mark.parametrize("use", WAYS.values(), ids=WAYS)
def test_large_layouts_are_not_kept(use: Callable[[int], object]) -> None:
    """Each call has another one: 1500 of 200 KB took 600 MB of an api process, and of a worker."""
    use(-1)
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    for number in range(TIMES):
        use(number)
    kept = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    assert kept < LARGE * TIMES / 10


def test_small_layouts_are_remembered() -> None:
    """They come again and again, and are neither read nor written a second time."""
    layout = layout_with("small")
    data = write_layout(layout)
    assert decode_layout(data) is decode_layout(bytes(bytearray(data)))
    assert encode_layout(layout) is encode_layout(layout_with("small"))
    first, second = (cast(METHOD, (ROWS, "small"), {}) for _ in range(2))
    assert first.layout is second.layout


@pytest.mark.parametrize("size", [1, LARGE], ids=["small", "large"])
def test_a_broadcast_value_arrives_and_tells_calls_apart(size: int) -> None:
    """Two calls with the same value may be merged, others may not."""
    one, same, other = (cast(METHOD, (ROWS, text * size), {}) for text in "aab")
    assert one.layout == same.layout != other.layout
    leaf = decode_layout(one.layout).leaves[1]
    assert leaf.value is not None
    assert from_body(leaf.value, leaf.dtype, ()).item() == "a" * size
    assert len(one.bodies) == 1


def test_a_broadcast_value_has_a_bound() -> None:
    """Every process on the way compares it; the message says what to do instead."""
    cast(METHOD, (ROWS, "x" * (MOST_BROADCAST - 100)), {})
    with pytest.raises(InvalidInput, match=r"input 'context' is one value of .* as rows"):
        cast(METHOD, (ROWS, "x" * (MOST_BROADCAST + 1)), {})
