"""The descriptor Image: types, modes, broken images and bombs."""

from __future__ import annotations

import io
import struct
import warnings
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from tfrunner.errors import ConfigError, InvalidInput, ModelError, TooLarge, UnsupportedForm
from tfrunner.io import Body, Image
from tfrunner.io.image import FORMATS

TYPES = list(FORMATS)


def encode(mime_type: str, size: tuple[int, int] = (64, 48)) -> bytes:
    """Return an image that does not compress well."""
    data = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    PIL.Image.fromarray(pixels).save(data, FORMATS[mime_type])
    return data.getvalue()


def bomb(width: int, height: int) -> bytes:
    """Return a PNG of one colour: a thousandth of the bytes that it unpacks to, and less."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        )

    head = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    packer = zlib.compressobj(9)
    row = bytes(1 + (width + 7) // 8)
    data = b"".join(packer.compress(row) for _ in range(height)) + packer.flush()
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


@given(
    arrays.arrays(
        np.uint8, st.tuples(st.integers(1, 9), st.integers(1, 9), st.sampled_from([3, 4]))
    )
)
def test_pixels_read_back(pixels: Any) -> None:
    """As PNG, which loses nothing, with transparency or without."""
    mode = "RGB" if pixels.shape[2] == 3 else "RGBA"
    descriptor = Image(mode, mime_type="image/png")
    np.testing.assert_array_equal(np.asarray(descriptor.read(descriptor.write(pixels))), pixels)


@pytest.mark.parametrize("mime_type", TYPES)
def test_every_type_is_read_and_written(mime_type: str) -> None:
    """Said, said in a form, or found by the first bytes."""
    data = encode(mime_type)
    form = (
        b'--b\r\ncontent-disposition: form-data; name="image"; filename="a"\r\ncontent-type: '
        + mime_type.encode()
        + b"\r\n\r\n"
        + data
        + b"\r\n--b--\r\n"
    )
    for body in (
        Body(data, mime_type),
        Body(form, "multipart/form-data; boundary=b"),
        Body(data, ""),
        Body(data, "application/octet-stream"),
    ):
        picture = Image().read(body)
        assert (picture.size, picture.mode) == ((64, 48), "RGB")
    written = Image(mime_type=mime_type).write(picture)
    assert written.content_type == mime_type
    assert PIL.Image.open(io.BytesIO(written.data)).format == FORMATS[mime_type]


def test_modes_are_converted_to() -> None:
    """None: the image as it came; a grey array has no axis of channels, or one of size 1."""
    grey = np.arange(12, dtype=np.uint8).reshape(3, 4)
    body = Image("L", mime_type="image/png").write(grey[..., None])
    assert Image().read(body).mode == "RGB"
    assert Image(None).read(body).mode == "L"
    np.testing.assert_array_equal(np.asarray(Image(None).read(body)), grey)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (Body(encode("image/png"), "text/plain"), "Content-Type is 'text/plain'"),
        (Body(encode("image/png"), "image/svg+xml"), "Content-Type is 'image/svg.xml'"),
        (Body(b"hello", ""), "no image of an allowed type"),
        (Body(b"", ""), "no image of an allowed type"),
    ],
    ids=["text", "svg", "nonsense", "empty"],
)
def test_other_types_are_refused(body: Body, message: str) -> None:
    """With those that are taken."""
    with pytest.raises(UnsupportedForm, match=message + ".*image/png, image/jpeg"):
        Image().read(body)


def test_types_that_are_not_allowed_are_refused_whatever_is_said() -> None:
    """The bytes count, not the word."""
    descriptor = Image(allowed_mime_types=["image/jpg"])
    jpeg, png = encode("image/jpeg"), encode("image/png")
    for said in ("image/jpeg", "image/jpg", ""):
        assert descriptor.read(Body(jpeg, said)).size == (64, 48)
    with pytest.raises(UnsupportedForm, match="'image/png'"):
        descriptor.read(Body(png, "image/png"))
    with pytest.raises(UnsupportedForm, match="no image of an allowed type"):
        descriptor.read(Body(png, ""))
    with pytest.raises(InvalidInput, match="is no image/jpeg image"):
        descriptor.read(Body(png, "image/jpeg"))


@pytest.mark.parametrize("mime_type", TYPES)
@pytest.mark.parametrize("part", [0.01, 0.5, 0.9], ids=str)
def test_an_image_that_is_cut_off_is_refused(mime_type: str, part: float) -> None:
    """In its head or in its pixels."""
    data = encode(mime_type)
    with pytest.raises(InvalidInput):
        Image().read(Body(data[: int(len(data) * part)], mime_type))


@given(st.sampled_from(TYPES), st.data())
def test_a_broken_image_is_an_image_or_refused(mime_type: str, data: st.DataObject) -> None:
    """Whatever byte is wrong, no other error comes up."""
    whole = bytearray(encode(mime_type, (8, 8)))
    for _ in range(3):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    try:
        assert Image().read(Body(bytes(whole), mime_type)).mode == "RGB"
    except (InvalidInput, TooLarge) as exc:
        assert exc.message


@pytest.mark.parametrize("side", [10_000, 20_000], ids=["warned", "refused"])
@pytest.mark.parametrize("filter_", ["error", "ignore"])
def test_a_bomb_is_refused_before_it_is_unpacked(
    side: int, filter_: Any, recwarn: pytest.WarningsRecorder
) -> None:
    """Pillow warns of the small one only; it is refused, whatever becomes of the warning."""
    data = bomb(side, side)
    assert len(data) < side * side // 500
    warnings.simplefilter(filter_, PIL.Image.DecompressionBombWarning)
    with pytest.raises(TooLarge, match="pixels"):
        Image().read(Body(data, "image/png"))


def test_pixels_and_bytes_have_limits() -> None:
    """Below Pillow's own, where they are declared."""
    data = encode("image/png")
    assert Image(max_pixels=64 * 48, max_bytes=len(data)).read(Body(data, "")).size == (64, 48)
    with pytest.raises(TooLarge, match="64 x 48 pixels; at most 3071"):
        Image(max_pixels=64 * 48 - 1).read(Body(data, ""))
    with pytest.raises(TooLarge, match="bytes; at most"):
        Image(max_bytes=len(data) - 1).read(Body(data, ""))


@pytest.mark.parametrize(
    "value",
    [
        np.zeros((2, 2, 3)),
        np.zeros((2, 2, 5), "uint8"),
        np.zeros(3, "uint8"),
        b"bytes",
        None,
        PIL.Image.new("RGBA", (2, 2)),
    ],
    ids=["floats", "channels", "vector", "bytes", "none", "transparent jpeg"],
)
def test_results_that_are_no_image(value: Any) -> None:
    """JPEG has no transparency: that is said, not dropped."""
    with pytest.raises(ModelError):
        Image().write(value)


def test_declarations_and_samples(tmp_path: Path) -> None:
    """A type or mode that is not known is found at once; a sample gives both."""
    with pytest.raises(ConfigError, match="Did you mean 'image/jpeg'"):
        Image(mime_type="image/jpegg")
    with pytest.raises(ConfigError, match="Did you mean 'RGB'"):
        Image("RBG")
    path = tmp_path / "a.png"
    path.write_bytes(encode("image/png"))
    with PIL.Image.open(path) as picture:
        for sample in (path, str(path), path.read_bytes(), picture):
            descriptor = Image.from_sample(sample)
            assert (descriptor.pilmode, descriptor.mime_type) == ("RGB", "image/png")
    assert Image.from_sample(np.zeros((2, 2), "uint8")).pilmode == "L"
    assert list(descriptor.schema()) == [*TYPES, "multipart/form-data"]
    for wrong in (5, b"nonsense", tmp_path / "gone", np.zeros((2, 2))):
        with pytest.raises(ConfigError, match="no image"):
            Image.from_sample(wrong)
