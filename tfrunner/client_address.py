"""Where a client calls: what it is given, what the environment names, or what runs here."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol
from urllib.parse import urlsplit

from tfrunner import config, rundir
from tfrunner.errors import ConfigError
from tfrunner.transport import check_address


class Channel(Protocol):
    """A client's way to its server."""

    @property
    def address(self) -> str:
        """The address that is called."""


def find_address(address: str | None = None) -> str:
    """Return the address to call: the given one, TFRUNNER_ADDRESS, or the one running server's.

    Args:
        address: `http://host:port`, `ipc://path` or `tcp://127.0.0.1:port`; None: find it.

    Raises:
        NotFound: None was given, and no server runs here, or several do.
        ConfigError: It is no address.
    """
    chosen = address or config.server_address()
    if chosen is None:
        server = rundir.find_server(config.run_root())
        direct = [each for each in server.frontend if each.startswith("ipc://")]
        chosen = (direct or [server.http])[0]
    parts = urlsplit(chosen)
    if is_http(chosen) and parts.hostname and _has_valid_port(chosen):
        return chosen.rstrip("/")
    if parts.scheme in ("ipc", "tcp"):
        return chosen
    raise ConfigError(
        f"{chosen!r} is no address; expected http://host:port, ipc://path or tcp://127.0.0.1:port."
    )


def finder(address: str | None) -> Callable[[], str] | None:
    """Return what finds the server again; None where it was named, and stays there."""
    return None if address or config.server_address() is not None else find_address


def describe(client: object, given: str | None, channel: Channel | None) -> str:
    """Return the text of a client on one line."""
    state = "closed" if channel is None else "open"
    address = (given or "the running server") if channel is None else channel.address
    return f"<{type(client).__name__} {address} [{state}]>"


def is_http(address: str) -> bool:
    """Return whether an address is called over HTTP."""
    return address.startswith(("http://", "https://"))


def _has_valid_port(address: str) -> bool:
    try:
        return urlsplit(address).port != 0
    except ValueError:
        return False


def frontend_address(address: str | None = None) -> str:
    """Return where to connect: what is given, else $TFRUNNER_ADDRESS, else the server here.

    Raises:
        ConfigError: The address is neither ipc nor tcp on loopback.
        NotFound: None is given, and not exactly one server runs here.
    """
    chosen = address or config.server_address()
    if chosen is None:
        return rundir.find_server(config.run_root()).frontend[0]
    if chosen.startswith(("http://", "https://")):
        raise ConfigError(
            f"a runner speaks to the dispatcher, not to HTTP ({chosen}): give ipc://<path> or "
            "tcp://127.0.0.1:<port>, or use tfrunner.Client."
        )
    return check_address(chosen)
