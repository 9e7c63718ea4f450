"""MessagePack bodies: what goes in comes out, and nothing is ever unpickled."""

import pickle

import msgpack
import numpy as np
import pytest

from tfrunner.errors import InvalidInput, ProtocolError
from tfrunner.packing import pack, unpack


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((0, 5), "float32"),
        np.array(3.5),
        np.arange(6.0).reshape(2, 3).T,
        np.array([[1, 2]], ">i4"),
        np.array([True, False]),
        np.array([1 + 2j], "complex64"),
        np.array([1, 2], "float16"),
        np.array([np.nan, np.inf]),
    ],
    ids=lambda array: f"{array.dtype.str}{list(array.shape)}",
)
def test_a_numeric_array_comes_back_with_its_dtype_shape_and_values(array):
    """Every numeric dtype travels, whatever its memory order."""
    back = unpack(pack({"x": [array]}))["x"][0]
    assert (back.dtype, back.shape) == (array.dtype, array.shape)
    np.testing.assert_array_equal(back, array)


@pytest.mark.parametrize(
    "array",
    [
        np.array([[b"a\0", "b\u00e9"]], object),
        np.array(["x", "yy"]),
        np.array([b"x", b"yy"]),
        np.empty((0, 2), object),
    ],
    ids=["objects", "text", "bytes", "no rows"],
)
def test_a_string_tensor_comes_back_as_bytes(array):
    """Text is UTF-8, and an element keeps the zero bytes at its end."""
    back = unpack(pack(array))
    wanted = [each.encode() if isinstance(each, str) else each for each in array.ravel()]
    assert back.dtype == object
    assert back.shape == array.shape
    assert back.ravel().tolist() == wanted


@pytest.mark.parametrize(
    "value", [np.array([object()]), np.array([{"a": 1}]), object(), np.zeros(1, "datetime64[s]")]
)
def test_what_is_not_plain_data_is_not_sent(value):
    """A Python object never becomes a pickle."""
    with pytest.raises(InvalidInput):
        pack({"x": value})


@pytest.mark.parametrize(
    "value",
    [{1: 0.5}, {-(2**63): 1, 2**64 - 1: 2}, {None: 1, True: 2}, {2.5: [1]}, {b"a": {"b": {3: 4}}}],
    ids=repr,
)
def test_keys_of_a_dict_need_not_be_text(value):
    """Python's dicts have numbers as keys."""
    assert unpack(pack(value)) == value


def test_a_key_that_would_come_back_as_a_list_is_named():
    """MessagePack has no tuples, and a list is no key."""
    with pytest.raises(ProtocolError, match="a key of a dict is a list"):
        unpack(pack({(1, 2): 3}))


class Bomb:
    """Its pickle, when opened, ends the test."""

    def __reduce__(self):
        return (pytest.fail, ("a pickle was opened",))


def _array(**changes):
    plain = {b"nd": True, b"type": "<f4", b"kind": b"", b"shape": [1], b"data": b"1234"}
    return msgpack.packb({**plain, **{key.encode(): value for key, value in changes.items()}})


@pytest.mark.parametrize(
    "body",
    [
        _array(type="|O", kind=b"O", data=pickle.dumps(Bomb())),
        _array(type="|O", kind="O", data=pickle.dumps(Bomb())),
        _array(kind=b"O", data=pickle.dumps(Bomb())),
        _array(type="|O", data=b"12345678"),
        _array(type="f4,O", data=b"1" * 12),
        _array(type=[["a", "<f4"]], kind=b"V"),
        _array(type="|S0", shape=[10**12], data=b""),
        _array(type="<U1", data=b"\xff\xff\xff\xff"),
        _array(type="<U1", nd=False, data=b"\xff\xff\xff\xff"),
        _array(type="<U1", data=b"\x00\xd8\x00\x00"),
        _array(shape=[-1]),
        _array(shape=[2]),
        _array(shape=["1"]),
        _array(data="1234"),
        _array(nd=1),
        _array(nd=False, data=b""),
        msgpack.packb({b"strings": ["text"], b"shape": [1]}),
        msgpack.packb({b"strings": [b"a"], b"shape": [2]}),
        msgpack.packb({b"strings": 5, b"shape": [1]}),
        b"",
        b"\xc1",
        b"\x91" * 5000,
        b"\x01\x01",
    ],
)
def test_a_body_that_is_malformed_or_could_carry_a_pickle_is_refused(body):
    """Each would be a pickle, a crash, endless memory or a wrong value."""
    with pytest.raises(ProtocolError):
        unpack(body)


def test_text_of_a_stock_client_is_read():
    """msgpack-numpy itself writes text as arrays of kind U."""
    import msgpack_numpy

    body = msgpack.packb(np.array(["\u00e9", "x"]), default=msgpack_numpy.encode)
    assert unpack(body).tolist() == ["\u00e9", "x"]
