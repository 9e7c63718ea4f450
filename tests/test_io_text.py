"""The descriptors Text and File: what they read, what they write."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tfrunner.errors import ConfigError, InvalidInput, ModelError, TooLarge, UnsupportedForm
from tfrunner.io import Body, File, FileLike, Text

ANY = "application/octet-stream"
TEXT = st.text(st.characters(exclude_categories=["Cs"]))


# --- text ---------------------------------------------------------------------------------------


@given(TEXT)
def test_text_reads_back(text: str) -> None:
    """Whole, and as one piece of a stream."""
    descriptor = Text()
    assert descriptor.read(descriptor.write(text)) == text
    assert descriptor.piece(text) == descriptor.write(text).data


@pytest.mark.parametrize(
    ("content_type", "data"),
    [
        ("", "é".encode()),
        ("text/plain", "é".encode()),
        ("text/html; charset=utf-8", "é".encode()),
        ("text/plain; charset=ISO-8859-1", b"\xe9"),
        ('text/plain; charset="utf-16"', "é".encode("utf-16")),
        ("application/x-www-form-urlencoded", "é".encode()),
    ],
)
def test_text_is_read_in_the_charset_that_it_names(content_type: str, data: bytes) -> None:
    """UTF-8 where it names none."""
    assert Text().read(Body(data, content_type)) == "é"


@pytest.mark.parametrize(
    ("body", "error", "message"),
    [
        (Body(b"\xe9", "text/plain"), InvalidInput, "no text in utf-8"),
        (Body("é".encode()[:1], ""), InvalidInput, "no text in utf-8"),
        (Body(b"x", "text/plain; charset=utf-16"), InvalidInput, "no text in utf-16"),
        (Body(b"x", "text/plain; charset=nonsense"), UnsupportedForm, "charset 'nonsense'"),
        (Body(b"x", "text/plain; charset=punycode"), UnsupportedForm, "charset 'punycode'"),
        (Body(b"x", "text/plain; charset=zip"), UnsupportedForm, "charset 'zip'"),
        (Body(b"x", "text/plain" + ";" * 64_000), InvalidInput, "64010 characters; at most 2048"),
        (Body(b"{}", "application/json"), UnsupportedForm, "expected text. Send: text/"),
        (Body(b"x", "image/png"), UnsupportedForm, "'image/png'"),
    ],
    ids=["latin", "cut", "odd", "unknown", "slow", "no text", "header", "json", "image"],
)
def test_what_is_no_text_is_refused(body: Body, error: type[Exception], message: str) -> None:
    """A charset that Python would read slowly is not read."""
    with pytest.raises(error, match=message):
        Text().read(body)


@pytest.mark.parametrize("value", [b"bytes", 5, None, ["a"], "\ud800"], ids=repr)
def test_only_text_is_written(value: Any) -> None:
    """Anything else is the endpoint's error, also in a stream."""
    with pytest.raises(ModelError):
        Text().write(value)
    with pytest.raises(ModelError):
        Text().piece(value)


def test_text_has_a_type_and_an_example() -> None:
    """Events are text too."""
    events = Text(content_type="text/event-stream")
    assert events.write("data: 1\n\n") == Body(b"data: 1\n\n", "text/event-stream")
    assert Text.from_sample("hello").schema() == {
        "text/plain": {"schema": {"type": "string"}, "example": "hello"}
    }
    for wrong in ("application/json", "text", ""):
        with pytest.raises(ConfigError, match="expected a text type"):
            Text(content_type=wrong)
    with pytest.raises(ConfigError, match="expected text, got a bytes"):
        Text.from_sample(b"x")  # type: ignore[arg-type]


# --- files --------------------------------------------------------------------------------------


def form(data: bytes, *, filename: str = "a.wav", content_type: str = "audio/wav") -> Body:
    """Return a form with one file, as a browser sends it."""
    head = f'Content-Disposition: form-data; name="file"; filename="{filename}"'
    text = f"--b\r\n{head}\r\nContent-Type: {content_type}\r\n\r\n".encode()
    return Body(text + data + b"\r\n--b--\r\n", "multipart/form-data; boundary=b")


HEADERS = (
    "a; NAME*=utf-8''x; NAME*0=y",
    "a; NAME*0=y; NAME*=utf-8''x",
    "a; NAME*" + "9" * 1900 + "=x",
    "a; NAME*0*=x; NAME*1=%ff; NAME*=",
)


@pytest.mark.parametrize("header", HEADERS)
@given(st.text("NAE*=0;'\"%\\ é", max_size=30))
def test_a_parameter_that_contradicts_itself_is_text_or_none(header: str, more: str) -> None:
    """Of a body's type, and of the name of a file: no error but those of requests comes up."""
    whole = f"{header};{more}"
    try:
        assert Text().read(Body(b"x", "text/plain" + whole[1:].replace("NAME", "charset"))) == "x"
    except UnsupportedForm as exc:
        assert "charset" in exc.message
    headers = {"content-disposition": whole.replace("NAME", "filename")}
    assert isinstance(File().read(Body(b"x", "", headers)).name, str)


def test_a_header_that_is_long_is_refused() -> None:
    """Also where it names a file."""
    with pytest.raises(InvalidInput, match=r"'attachment;;;.* has 64010 characters; at most 2048"):
        File().read(Body(b"x", "", {"content-disposition": "attachment" + ";" * 64_000}))


NAMES = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"]), max_size=150)


@given(st.binary(), NAMES)
@example(b"", "0/")
@example(b"", "/a/b ")
@example(b"", "a\\")
def test_a_file_reads_back_with_its_name(data: bytes, name: str) -> None:
    """Whatever its bytes are and its name is; folders stay outside, and a folder has no name."""
    written = File().write(FileLike(data, name=name, content_type="audio/wav"))
    back = File().read(written)
    assert (back.read(), back.content_type) == (data, "audio/wav")
    assert back.name == name.replace("\\", "/").rpartition("/")[2]


def test_a_file_comes_as_body_or_as_form() -> None:
    """With its name where one is told."""
    raw = File().read(Body(b"RIFF", "audio/wav"))
    assert (raw.read(), raw.name, raw.content_type) == (b"RIFF", "", "audio/wav")
    sent = File().read(form(b"RIFF\r\n--x", filename="C:\\tmp\\a é.wav"))
    assert (sent.read(), sent.name, sent.content_type) == (b"RIFF\r\n--x", "a é.wav", "audio/wav")
    assert repr(sent) == "<FileLike 'a é.wav' [9 bytes, audio/wav]>"
    assert File().read(Body(b"", "application/x-www-form-urlencoded")).content_type == ""


@pytest.mark.parametrize("mime_type", ["audio/wav", "audio/*"])
def test_a_type_that_is_declared_is_asked_for(mime_type: str) -> None:
    """Of the body, and of the part of a form; what says no type is let through."""
    descriptor = File(mime_type=mime_type)
    for good in (Body(b"x", "audio/wav"), Body(b"x", "Audio/WAV; a=b"), form(b"x"), Body(b"x", "")):
        assert descriptor.read(good).read() == b"x"
    for wrong in (
        Body(b"x", "video/wav"),
        Body(b"x", "text/plain"),
        form(b"x", content_type="a/b"),
    ):
        with pytest.raises(UnsupportedForm, match=f"Send: {mime_type.replace('*', '.')}"):
            descriptor.read(wrong)


def test_forms_without_exactly_one_file_are_refused() -> None:
    """As are those that are cut off."""
    body = form(b"RIFF")
    two = body.data[: -len(b"--b--\r\n")] + body.data
    for data, message in (
        (two, "several parts"),
        (b"--b--\r\n", "no part"),
        (body.data[:-4], "cut off"),
        (body.data[:40], "cut off"),
        (b"nonsense", "broken"),
    ):
        with pytest.raises(InvalidInput, match=message):
            File().read(body._replace(data=data))


def test_large_files_are_refused() -> None:
    """In a form it is the file that counts."""
    descriptor = File(max_bytes=10)
    assert descriptor.read(form(b"x" * 10)).read() == b"x" * 10
    for body in (form(b"x" * 11), Body(b"x" * 11, ANY)):
        with pytest.raises(TooLarge, match="has 11 bytes; at most 10"):
            descriptor.read(body)


def test_what_can_be_written_as_a_file(tmp_path: Path) -> None:
    """Bytes, a path, what was opened, and a BytesIO wherever it stands."""
    path = tmp_path / "a.csv"
    path.write_bytes(b"x,y")
    attachment = {"content-disposition": 'attachment; filename="a.csv"'}
    assert File().write(b"x,y") == Body(b"x,y", ANY)
    assert File().write(path) == Body(b"x,y", "text/csv", attachment)
    with path.open("rb") as file:
        assert File(mime_type="text/*").write(file) == Body(b"x,y", "text/csv", attachment)
    buffer = io.BytesIO()
    buffer.write(b"x,y")
    assert File(mime_type="text/plain").write(buffer) == Body(b"x,y", "text/plain")


def test_what_cannot_be_written_as_a_file(tmp_path: Path) -> None:
    """Text is no file, nor is what is gone or closed."""
    closed = (tmp_path / "a").open("wb")
    closed.close()
    for value in ("text", 5, None, io.StringIO("x"), tmp_path / "gone", closed):
        with pytest.raises(ModelError):
            File().write(value)


def test_a_sample_gives_the_type(tmp_path: Path) -> None:
    """By its name; bytes have none."""
    assert File.from_sample(tmp_path / "a.png").mime_type == "image/png"
    assert File.from_sample(FileLike(b"", content_type="audio/wav")).mime_type == "audio/wav"
    assert File.from_sample(b"x").mime_type is None
    assert list(File(mime_type="audio/wav").schema()) == ["audio/wav", "multipart/form-data"]
    with pytest.raises(ConfigError, match="without a name"):
        File.from_sample(5)
    with pytest.raises(ConfigError, match="expected a type"):
        File(mime_type="wav")
