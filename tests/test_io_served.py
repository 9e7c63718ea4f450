"""Descriptors behind endpoints: what a client sends and gets, with the status of each mistake."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import pandas
import PIL.Image
import pydantic
import pytest

from tests.api_world import LIMIT, FakeGateway, serving
from tfrunner import Service
from tfrunner.io import JSON, File, Image, Multipart, NumpyNdarray, PandasDataFrame, Text

PARQUET = "application/vnd.apache.parquet"


class Item(pydantic.BaseModel):
    """What /model takes."""

    price: float


def make() -> Service:
    """Return a Service with an endpoint for each descriptor."""
    svc = Service(name="io")

    @svc.api(JSON(pydantic_model=Item), JSON())
    async def model(item: Item) -> Any:
        return item.price * 2

    @svc.api(NumpyNdarray("float32"), NumpyNdarray(default_format="raw"))
    async def array(rows: Any) -> Any:
        return rows * 2

    @svc.api(Text(), Text())
    async def text(value: str) -> Any:
        return value.upper() if value else 5

    @svc.api(File(max_bytes=1000), File())
    async def file(value: Any) -> Any:
        return value

    @svc.api(Image(), Image(mime_type="image/bmp"))
    async def image(value: Any) -> Any:
        return value.rotate(180)

    @svc.api(
        Multipart(original=Image(), compared=Image()),
        Multipart(same=JSON(), difference=Image(mime_type="image/png")),
    )
    async def pair(compared: Any, original: Any) -> Any:
        first, second = (np.asarray(each).astype(int) for each in (original, compared))
        return {
            "same": bool((first == second).all()),
            "difference": (first - second).astype("uint8"),
        }

    @svc.api(PandasDataFrame(columns=["a", "b"]), PandasDataFrame(default_format="parquet"))
    async def frame(value: Any) -> Any:
        return value.assign(c=value["a"] + value["b"])

    return svc


@pytest.fixture(scope="module")
def client() -> Iterator[httpx.Client]:
    """Return a client of a server with the Service."""
    with (
        serving(FakeGateway(), services=[make()], body_limit=50_000) as address,
        httpx.Client(base_url=address, timeout=LIMIT, trust_env=False) as client,
    ):
        yield client


def picture(form: str, colour: int = 7) -> bytes:
    """Return an image that has one pixel of another colour."""
    image = PIL.Image.new("RGB", (4, 3))
    image.putpixel((0, 0), (colour, 0, 0))
    data = io.BytesIO()
    image.save(data, form)
    return data.getvalue()


def test_a_model_of_pydantic(client: httpx.Client) -> None:
    """The function gets an instance."""
    assert client.post("/model", json={"price": "1.5"}).json() == 3.0


def test_raw_arrays_both_ways(client: httpx.Client) -> None:
    """Their headers come and go with them."""
    headers = {
        "Content-Type": "application/octet-stream",
        "X-Tensor-Dtype": "float64",
        "X-Tensor-Shape": "1,2",
    }
    reply = client.post("/array", content=np.array([[1.0, 2.5]]).tobytes(), headers=headers)
    assert reply.headers["content-type"] == "application/octet-stream"
    assert (reply.headers["x-tensor-dtype"], reply.headers["x-tensor-shape"]) == ("float32", "1,2")
    assert np.frombuffer(reply.content, "float32").tolist() == [2, 5]


def test_a_file_keeps_its_name(client: httpx.Client) -> None:
    """Sent as a form, answered as an attachment."""
    reply = client.post("/file", files={"file": ("ä.csv", b"x,y", "text/csv")})
    assert (reply.content, reply.headers["content-type"]) == (b"x,y", "text/csv; charset=utf-8")
    assert reply.headers["content-disposition"] == "attachment; filename*=UTF-8''%C3%A4.csv"
    assert client.post("/file", content=b"").content == b""


def test_an_image_in_another_type(client: httpx.Client) -> None:
    """PNG in, BMP out, as body or as form."""
    png = picture("PNG")
    for reply in (
        client.post("/image", content=png, headers={"Content-Type": "image/png"}),
        client.post("/image", files={"any": ("a.png", png, "image/png")}),
    ):
        assert reply.headers["content-type"] == "image/bmp"
        assert PIL.Image.open(io.BytesIO(reply.content)).getpixel((3, 2)) == (7, 0, 0)


def test_two_images_in_any_order(client: httpx.Client) -> None:
    """The function's parameters have another order still; the answer is a form too."""
    parts = {
        "original": ("a.png", picture("PNG", 9), "image/png"),
        "compared": ("b.bmp", picture("BMP", 7), "image/bmp"),
    }
    for files in (parts, dict(reversed(parts.items()))):
        reply = client.post("/pair", files=files)
        assert reply.headers["content-type"].startswith("multipart/form-data; boundary=")
        assert b'name="same"' in reply.content and b"\r\n\r\nfalse\r\n" in reply.content
        found = reply.content[reply.content.index(b"\x89PNG") :]
        assert PIL.Image.open(io.BytesIO(found)).getpixel((0, 0)) == (2, 0, 0)


def test_a_frame_in_each_form(client: httpx.Client) -> None:
    """JSON, CSV and Parquet in, Parquet out."""
    given = pandas.DataFrame({"b": [2.5], "a": [1]})
    for content, content_type in (
        (given.to_json(orient="records"), "application/json"),
        (given.to_csv(index=False), "text/csv"),
        (given.to_parquet(), PARQUET),
    ):
        reply = client.post("/frame", content=content, headers={"Content-Type": content_type})
        assert reply.headers["content-type"] == PARQUET
        found = pandas.read_parquet(io.BytesIO(reply.content))
        assert found.to_dict("list") == {"a": [1], "b": [2.5], "c": [3.5]}


@pytest.mark.parametrize(
    ("path", "content_type", "content", "status", "message"),
    [
        ("/model", "application/json", b'{"price": "x"}', 400, "field 'price': "),
        ("/model", "image/png", b"{}", 415, "expected JSON"),
        ("/array", "application/x-npy", b"\x93NUMPY\x01\x00v\x00{", 400, "cut off"),
        ("/array", "application/octet-stream", b"x", 400, "X-Tensor-Dtype"),
        ("/array", "application/json", b'["2f"]', 400, "holds text"),
        ("/array", "text/css", b"[[1], [2, 3]]", 400, "ragged"),
        ("/text", "text/plain", b"\xff", 400, "no text"),
        ("/text", "audio/wav", b"x", 415, "expected text"),
        ("/text", "text/plain", b"", 500, "returned a int; expected text"),
        ("/file", "a/b", b"x" * 1001, 413, "at most 1000"),
        ("/file", "a/b", b"x" * 50_001, 413, "at most 50000"),
        ("/file", "multipart/form-data; boundary=b", b"--b\r\nx", 400, "form is cut off|broken"),
        ("/image", "text/plain", picture("PNG"), 415, "expected an image"),
        ("/image", "image/png", picture("PNG")[:30], 400, "image"),
        ("/pair", "application/json", b"{}", 415, "expected a form"),
        (
            "/pair",
            "multipart/form-data; boundary=b",
            b"--b--\r\n",
            400,
            "lacks the field 'original'",
        ),
        ("/frame", "application/json", b'[{"a": 1}]', 400, "lacks the column 'b'"),
        ("/frame", PARQUET, b"PAR1", 400, "no readable Parquet"),
        ("/frame", "text/csv", b'a,b\n"1', 400, "no readable CSV"),
        ("/frame", "application/json", b'[{"a": 1, "b": "x"}]', 500, "failed; the server's log"),
    ],
    ids=lambda value: str(value)[:24],
)
def test_each_mistake_has_its_status(
    client: httpx.Client, path: str, content_type: str, content: bytes, status: int, message: str
) -> None:
    """One line that names it, and the next request is answered as ever."""
    reply = client.post(path, content=content, headers={"Content-Type": content_type})
    assert reply.status_code == status
    error = reply.json()["error"]
    assert any(each in error for each in message.split("|")), error
    assert "\n" not in error
    assert client.post("/model", json={"price": 1}).json() == 2.0


def test_openapi_says_what_each_endpoint_takes_and_gives(client: httpx.Client) -> None:
    """Forms with their fields, models with theirs."""
    paths = client.get("/openapi.json").json()["paths"]

    def content(path: str, where: str) -> Any:
        operation = paths[path]["post"]
        return (operation if where == "requestBody" else operation["responses"])[where]["content"]

    model = content("/model", "requestBody")["application/json"]["schema"]
    assert model["properties"]["price"]["type"] == "number"
    form = content("/pair", "requestBody")["multipart/form-data"]
    assert form["schema"]["required"] == ["original", "compared"]
    assert "image/png" in form["encoding"]["original"]["contentType"]
    assert list(content("/image", "requestBody"))[:2] == ["image/png", "image/jpeg"]
    answer = content("/pair", "200")["multipart/form-data"]
    assert answer["encoding"]["difference"] == {"contentType": "image/png"}
    assert list(content("/image", "200")) == ["image/bmp"]
    assert list(content("/frame", "200")) == [PARQUET]
    assert list(content("/array", "200")) == ["application/octet-stream"]
    assert list(content("/file", "200")) == ["application/octet-stream"]
    assert "result" in paths["/file"]["post"]["responses"]["500"]["description"]
