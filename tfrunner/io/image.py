"""Images in and out, by Pillow."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from tfrunner.errors import (
    ConfigError,
    InvalidInput,
    ModelError,
    TooLarge,
    UnsupportedForm,
    did_you_mean,
)
from tfrunner.io.body import BINARY, UNTOLD, Body, check_size, media_type
from tfrunner.io.form import NAME as FORM
from tfrunner.io.form import is_form, only_part
from tfrunner.io.packages import require

if TYPE_CHECKING:
    from PIL.Image import Image as Picture

FORMATS = {
    "image/png": "PNG",
    "image/jpeg": "JPEG",
    "image/webp": "WEBP",
    "image/gif": "GIF",
    "image/bmp": "BMP",
    "image/tiff": "TIFF",
}
"""The types that are read and written, and Pillow's names of them; no other of its many decoders
is ever given a body."""

ALIASES = {
    "image/jpg": "image/jpeg",
    "image/pjpeg": "image/jpeg",
    "image/x-png": "image/png",
    "image/x-ms-bmp": "image/bmp",
}
"""What clients also call some of them."""

MODES = ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "HSV", "I", "F")
"""Pillow's modes that any image can be converted to."""

GUESSED = (*UNTOLD, "application/octet-stream")
"""Types that do not say what a body is; then its first bytes do."""


class Image:
    """An image: the body itself, or the one part of a form; the value is a `PIL.Image.Image`.

    Args:
        pilmode: What it is converted to, one of Pillow's modes; None: as it came. On the way
            out it is the mode of arrays.
        mime_type: What is written.
        allowed_mime_types: What is read; by default every type that is known.
        max_bytes: Most bytes of a body; None: as many as the server takes.
        max_pixels: Most pixels of an image, where that is less than Pillow's own limit of 89
            million: few bytes may unpack to many.

    Raises:
        ConfigError: A type or mode is not known, or Pillow is not installed.
    """

    is_slow = True

    def __init__(
        self,
        pilmode: str | None = "RGB",
        *,
        mime_type: str = "image/jpeg",
        allowed_mime_types: Sequence[str] | None = None,
        max_bytes: int | None = None,
        max_pixels: int | None = None,
    ) -> None:
        require("PIL.Image", package="Pillow", what="Image")
        self.pilmode = _check_mode(pilmode)
        self.mime_type = _check_mime(mime_type)
        allowed = FORMATS if allowed_mime_types is None else allowed_mime_types
        self.allowed_mime_types = tuple(_check_mime(each) for each in allowed)
        self.max_bytes = max_bytes
        self.max_pixels = max_pixels

    @classmethod
    def from_sample(cls, sample: Any, *, pilmode: str | None = None) -> Image:
        """Return the descriptor of images of the sample's type and mode.

        Args:
            sample: A path, an open file, bytes, a PIL image, or an array as `write` takes them.
            pilmode: Another mode than the sample's.

        Raises:
            ConfigError: It is no image.
        """
        picture = cls(pilmode)._picture_of_sample(sample)
        names = {name: mime for mime, name in FORMATS.items()}
        mime = names.get(picture.format or "", "image/png")
        mode = picture.mode if picture.mode in MODES else None
        return cls(pilmode or mode, mime_type=mime)

    def read(self, body: Body) -> Picture:
        """Return the image of a body; of an animation the first frame.

        Raises:
            UnsupportedForm: It is of a type that is not allowed, or no image.
            InvalidInput: It is cut off, broken, or not what it is said to be; or the form has
                not one part.
            TooLarge: It has more bytes or pixels than are allowed.
        """
        if is_form(body.content_type):
            body = only_part(body).body
        said = media_type(body.content_type)
        if said not in GUESSED and ALIASES.get(said, said) not in self.allowed_mime_types:
            raise self._refuse(f"the body's Content-Type is {said!r}")
        check_size(body.data, self.max_bytes)
        picture = self._open(body.data, said)
        self._check_pixels(picture)
        try:
            picture.load()
            return picture if self.pilmode is None else picture.convert(self.pilmode)
        except MemoryError:
            raise
        except Exception as exc:  # Pillow's decoders raise what comes up in them, of any kind
            raise InvalidInput(f"the image is cut off or broken: {exc}.") from None

    def _open(self, data: bytes, said: str) -> Picture:
        """Return the image with its head read, and no pixel."""
        from PIL import Image as Pillow
        from PIL import UnidentifiedImageError

        formats = [FORMATS[each] for each in self.allowed_mime_types]
        try:
            return Pillow.open(io.BytesIO(data), formats=formats)
        except UnidentifiedImageError:
            if said in GUESSED:
                raise self._refuse("the body is no image of an allowed type") from None
            raise InvalidInput(
                f"the body is no {said} image, whatever its Content-Type says, or is cut off."
            ) from None
        except (Pillow.DecompressionBombError, Pillow.DecompressionBombWarning) as exc:
            raise TooLarge(f"the image is too large: {exc}") from None
        except Exception as exc:  # as above
            raise InvalidInput(f"the head of the image is broken: {exc}.") from None

    def _check_pixels(self, picture: Picture) -> None:
        from PIL import Image as Pillow

        pixels = picture.width * picture.height
        for most in (self.max_pixels, Pillow.MAX_IMAGE_PIXELS):  # Pillow warns, up to twice its own
            if most is not None and pixels > most:
                raise TooLarge(
                    f"the image has {picture.width} x {picture.height} pixels; at most {most} are "
                    "taken. Send a smaller one."
                )

    def _refuse(self, what: str) -> UnsupportedForm:
        return UnsupportedForm(
            f"{what}; expected an image. Send one of: {', '.join(self.allowed_mime_types)}."
        )

    def write(self, value: Any) -> Body:
        """Return the body of an image, as `mime_type`.

        Args:
            value: A PIL image, or an array of uint8: height, width, and 1, 3 or 4 channels (no
                axis for one channel goes too).

        Raises:
            ModelError: It is none, or that type cannot hold its mode (JPEG has no transparency).
        """
        picture = self._picture(value)
        data = io.BytesIO()
        try:
            picture.save(data, FORMATS[self.mime_type])
        except (OSError, ValueError) as exc:
            raise ModelError(
                f"the endpoint's image of mode {picture.mode} cannot be written as "
                f"{self.mime_type}: {exc}. Convert it, or use another mime_type."
            ) from exc
        return Body(data.getvalue(), self.mime_type)

    def _picture(self, value: Any) -> Picture:
        from PIL import Image as Pillow

        if isinstance(value, Pillow.Image):
            return value
        array = np.asarray(value.numpy() if hasattr(value, "numpy") else value)
        if array.dtype != np.uint8 or array.ndim not in (2, 3):
            raise ModelError(
                f"the endpoint returned {array.dtype} of shape {list(array.shape)} as an image; "
                "expected a PIL image, or uint8 with height, width and channels."
            )
        if array.ndim == 3 and array.shape[2] == 1:
            array = array[..., 0]
        try:
            picture = Pillow.fromarray(array)
            return picture if self.pilmode is None else picture.convert(self.pilmode)
        except (TypeError, ValueError) as exc:
            raise ModelError(f"the endpoint's array is no image: {exc}.") from exc

    def _picture_of_sample(self, sample: Any) -> Picture:
        from PIL import Image as Pillow

        try:
            if isinstance(sample, (np.ndarray, Pillow.Image)):
                return self._picture(sample)
            source = io.BytesIO(sample) if isinstance(sample, bytes) else sample
            with Pillow.open(source, formats=list(FORMATS.values())) as found:
                picture: Picture = found
            return picture
        except (OSError, TypeError, ValueError, AttributeError, ModelError) as exc:
            raise ConfigError(f"Image.from_sample: the sample is no image: {exc}") from exc

    def schema(self) -> dict[str, Any]:
        """Return OpenAPI's `content`."""
        form = {"type": "object", "properties": {"image": BINARY}}
        return {each: {"schema": BINARY} for each in self.allowed_mime_types} | {
            FORM: {"schema": form}
        }

    def written(self) -> dict[str, Any]:
        """Return OpenAPI's `content` of what is written."""
        return {self.mime_type: {"schema": BINARY}}


def _check_mime(mime_type: str) -> str:
    name = ALIASES.get(mime_type, mime_type)
    if name not in FORMATS:
        raise ConfigError(
            f"Image: the type {mime_type!r} is not known.{did_you_mean(name, FORMATS)}"
        )
    return name


def _check_mode(pilmode: str | None) -> str | None:
    if pilmode is not None and pilmode not in MODES:
        raise ConfigError(
            f"Image: the pilmode {pilmode!r} is not known.{did_you_mean(pilmode, MODES)}"
        )
    return pilmode
