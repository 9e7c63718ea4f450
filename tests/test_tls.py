"""TLS: certificates made here, keys with a password, certificates of clients, renewal."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import trustme
from cryptography.hazmat.primitives import serialization

from tests.api_world import BOTH_WAYS, LIMIT, FakeGateway, serving
from tests.gateway_world import LIMIT as SHORT
from tests.test_serve import serving as serving_processes
from tests.waiting import wait_for
from tfrunner import Client
from tfrunner.api.app import Application
from tfrunner.api.server import Server
from tfrunner.api.state import ProcessState
from tfrunner.api.tls import Certificate, make_context
from tfrunner.config import Bounds
from tfrunner.entrance import Entrance, Tls
from tfrunner.errors import ConfigError, Unavailable

PREDICT = "/v1/models/m:predict"
BODY = {"instances": [[1.0, 2.0]]}
PASSWORD = "a secret"


class Files:
    """A certificate authority and the files of one server."""

    def __init__(self, folder: Path) -> None:
        self.authority = trustme.CA()
        self.certfile, self.keyfile = folder / "cert.pem", folder / "key.pem"
        self.locked, self.password = folder / "locked.pem", folder / "password"
        self.ca = folder / "ca.pem"
        self.folder = folder
        self.authority.cert_pem.write_to_path(str(self.ca))
        self.issue()
        key = serialization.load_pem_private_key(self.keyfile.read_bytes(), None)
        self.locked.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.BestAvailableEncryption(PASSWORD.encode()),
            )
        )
        self.password.write_text(PASSWORD + "\n")

    def issue(self) -> None:
        """Write a new certificate for this machine."""
        made = self.authority.issue_cert("127.0.0.1", "localhost")
        made.private_key_pem.write_to_path(str(self.keyfile))
        self.certfile.write_bytes(b"".join(each.bytes() for each in made.cert_chain_pems))

    def tls(self, **changes: Path) -> Tls:
        """Return the server's settings."""
        files = {"certfile": self.certfile, "keyfile": self.keyfile, **changes}
        return Tls(**{name: str(path) for name, path in files.items()})

    def context(self, *, with_certificate: bool = False) -> ssl.SSLContext:
        """Return what a client trusts and shows."""
        context = ssl.create_default_context(cafile=str(self.ca))
        if with_certificate:
            self.authority.issue_cert("client@example.org").configure_cert(context)
        return context


@pytest.fixture
def files(tmp_path: Path) -> Files:
    """Return a certificate of this test's own."""
    return Files(tmp_path)


@contextlib.contextmanager
def calling(url: str, context: ssl.SSLContext) -> Iterator[httpx.Client]:
    """Yield a client."""
    with httpx.Client(base_url=url, verify=context, trust_env=False, timeout=LIMIT) as client:
        yield client


@pytest.mark.parametrize("direct", BOTH_WAYS["params"], ids=BOTH_WAYS["ids"])
def test_requests_are_answered_over_tls(files: Files, direct: bool) -> None:
    """Predict requests and pages, several on one connection; plain HTTP is not."""
    with serving(FakeGateway(), direct=direct, entrance=Entrance(tls=files.tls())) as url:
        assert url.startswith("https://")
        with calling(url, files.context()) as client:
            for _ in range(3):
                assert client.post(PREDICT, json=BODY).json() == {"predictions": [[1.0, 2.0]]}
            assert client.get("/livez").status_code == 200
            large = {"instances": [[1.0, 2.0]] * 20_000}
            assert len(client.post(PREDICT, json=large).json()["predictions"]) == 20_000
        with pytest.raises(httpx.HTTPError):
            httpx.get(url.replace("https", "http") + "/livez", trust_env=False)
        with pytest.raises(httpx.ConnectError, match="certificate verify failed"):
            httpx.get(url + "/livez", trust_env=False)


def test_old_versions_are_refused(files: Files) -> None:
    """TLS 1.2 at least."""
    assert make_context(files.tls()).minimum_version is ssl.TLSVersion.TLSv1_2


def test_refusals_reach_the_client(files: Files) -> None:
    """A head that is too large: TLS knows no half-closed connection."""
    entrance = Entrance(tls=files.tls())
    with (
        serving(FakeGateway(), entrance=entrance, header_limit=2000) as url,
        calling(url, files.context()) as client,
    ):
        assert client.get("/livez", headers={"X-Long": "a" * 5000}).status_code == 431


@pytest.mark.parametrize("way", ["file", "environment"])
def test_a_key_may_have_a_password(files: Files, way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """From a file or the environment: a command line is for all to see."""
    if way == "file":
        tls = files.tls(keyfile=files.locked, password_file=files.password)
    else:
        tls = files.tls(keyfile=files.locked)
        monkeypatch.setenv("TFRUNNER_SSL_PASSWORD", PASSWORD)
    with (
        serving(FakeGateway(), entrance=Entrance(tls=tls)) as url,
        calling(url, files.context()) as client,
    ):
        assert client.get("/livez").status_code == 200


def test_clients_may_need_a_certificate(files: Files) -> None:
    """Of that authority, and of no other."""
    entrance = Entrance(tls=files.tls(ca_certs=files.ca))
    with serving(FakeGateway(), entrance=entrance) as url:
        with calling(url, files.context(with_certificate=True)) as client:
            assert client.post(PREDICT, json=BODY).status_code == 200
        stranger = files.context()
        trustme.CA().issue_cert("client@example.org").configure_cert(stranger)
        for context in (files.context(), stranger):
            with calling(url, context) as client, pytest.raises(httpx.HTTPError):
                client.post(PREDICT, json=BODY)


def test_a_renewed_certificate_is_shown_from_the_next_connection_on(files: Files) -> None:
    """Without a restart; a broken one changes nothing."""
    with serving(FakeGateway(), entrance=Entrance(tls=files.tls())) as url:
        host, port = httpx.URL(url).host, httpx.URL(url).port
        assert port is not None
        first = ssl.get_server_certificate((host, port))
        files.issue()
        wait_for(lambda: ssl.get_server_certificate((host, port)) != first, limit=LIMIT)
        second = ssl.get_server_certificate((host, port))
        assert second.strip() in files.certfile.read_text()
        files.certfile.write_text("no certificate")
        with calling(url, files.context()) as client:
            assert client.get("/livez").status_code == 200


def test_a_certificate_that_is_seen_half_written_is_read_again(
    files: Files, caplog: pytest.LogCaptureFixture
) -> None:
    """Though the rest may come within the same tick of the file's time."""
    caplog.set_level(logging.INFO, "tfrunner.api")
    text, times = files.certfile.read_text(), (10**18, 10**18)
    certificate = Certificate(files.tls())
    certificate.load()
    for written in (text[:100], text):
        files.certfile.write_text(written)
        os.utime(files.certfile, ns=times)
        certificate.refresh()
    stays, read = [record.getMessage() for record in caplog.records]
    assert stays.startswith("the certificate stays as it was")
    assert read.endswith("was read anew")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"certfile": "none.pem"}, "--ssl-certfile .*none.pem cannot be read"),
        ({"keyfile": "none.pem"}, "--ssl-keyfile .*none.pem cannot be read"),
        ({"keyfile": "password"}, "they hold no certificate and key"),
        ({"keyfile": "locked.pem"}, "--ssl-password-file"),
        ({"keyfile": "locked.pem", "password_file": "cert.pem"}, "the password is wrong"),
        ({"keyfile": "other.pem"}, "not that of the certificate"),
        ({"ca_certs": "password"}, "holds no certificates"),
    ],
    ids=["no cert", "no key", "not PEM", "no password", "wrong password", "other key", "no CA"],
)
def test_what_cannot_work_is_said_in_one_line(
    files: Files, changes: dict[str, str], said: str
) -> None:
    """Before the server starts, and without a question at the terminal."""
    other = files.authority.issue_cert("localhost")
    other.private_key_pem.write_to_path(str(files.folder / "other.pem"))
    tls = files.tls(**{name: files.folder / file for name, file in changes.items()})
    with pytest.raises(ConfigError, match=said) as refused:
        make_context(tls)
    assert "\n" not in refused.value.message


def test_who_does_not_agree_on_tls_in_time_is_cut_off(files: Files) -> None:
    """A connection that says nothing holds a descriptor, and no bound counts it."""
    entrance = Entrance(tls=files.tls())
    with serving(FakeGateway(), entrance=entrance, receive_timeout=0.2) as url:
        address = (httpx.URL(url).host, httpx.URL(url).port)
        with socket.create_connection(address, timeout=LIMIT / 2) as silent:
            assert silent.recv(1) == b""


def test_the_end_waits_for_nobody_who_does_not_agree_on_tls(files: Files) -> None:
    """Three in the backlog say nothing; the one behind them is answered all the same."""
    state, gateway = ProcessState(Bounds(), count=lambda name, label: None), FakeGateway()
    app = Application(gateway, timeout=LIMIT, state=state, services=())  # type: ignore[arg-type]
    certificate = Certificate(files.tls())
    server = Server(app, state=state, grace=1.0, give_up=gateway.close, certificate=certificate)

    async def story(listener: socket.socket, stack: contextlib.ExitStack) -> None:
        server.config.load()
        server.lifespan = server.config.lifespan_class(server.config)
        await server.startup([listener])
        address = listener.getsockname()
        waiting = [stack.enter_context(socket.create_connection(address)) for _ in range(4)]
        ending = asyncio.ensure_future(server.shutdown([listener]))  # before any is accepted
        waiting[-1].setblocking(False)
        opening = asyncio.open_connection(
            sock=waiting[-1], ssl=files.context(), server_hostname="localhost"
        )
        reader, writer = await asyncio.wait_for(opening, SHORT)
        writer.write(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")
        reply = await asyncio.wait_for(reader.read(), SHORT)
        assert reply.startswith(b"HTTP/1.1 200 ") and b"connection: close" in reply.lower()
        await asyncio.wait_for(ending, SHORT)
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()

    with contextlib.ExitStack() as stack:
        asyncio.run(story(stack.enter_context(socket.create_server(("127.0.0.1", 0))), stack))


def test_a_whole_server_starts_and_ends_with_tls(files: Files, run_root: Path) -> None:
    """Clients need a certificate, and yet the supervisor learns that it is ready."""
    options = ("--ssl-certfile", files.certfile, "--ssl-keyfile", files.keyfile)
    with serving_processes(*map(str, options), "--ssl-ca-certs", str(files.ca)) as server:
        assert server.address.http.startswith("https://")
        with calling(server.address.http, files.context(with_certificate=True)) as client:
            reply = client.post("/v1/models/echo:predict", json=BODY)
            assert reply.json() == {"predictions": [[1.0, 2.0]]}
        assert server.end(15) == 0


def test_curl_trusts_it_too(files: Files) -> None:
    """A client that is not Python's."""
    with serving(FakeGateway(), entrance=Entrance(tls=files.tls())) as url:
        command = ["curl", "-sS", "--noproxy", "*", "--cacert", str(files.ca), f"{url}/livez"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT, check=True)
        assert "alive" in done.stdout


def test_our_client_trusts_whom_the_system_trusts(
    files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    """$SSL_CERT_FILE names an authority of one's own; a stranger's server is not called."""
    with serving(FakeGateway(), entrance=Entrance(tls=files.tls())) as url:
        with Client(url, retries=False) as client, pytest.raises(Unavailable, match="certificate"):
            client.predict("m", [[1.0, 2.0]])
        monkeypatch.setenv("SSL_CERT_FILE", str(files.ca))
        with Client(url) as client:
            assert client.predict("m", [[1.0, 2.0]]).tolist() == [[1.0, 2.0]]
