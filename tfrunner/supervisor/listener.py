"""The one listening socket of a server, bound here and inherited by the api processes.

Without SO_REUSEPORT: it would let a second server share a used port silently.
"""

from __future__ import annotations

import errno
import socket
from pathlib import Path

from tfrunner.errors import ConfigError
from tfrunner.transport import check_address

BACKLOG = 2048
LAST_PORT = 65535


def listen(host: str, port: int) -> socket.socket:
    """Bind and listen.

    Raises:
        ConfigError: The port is in use or does not exist, or the address is not one of this
            machine.
    """
    check_port(port)
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family, backlog=BACKLOG)
    except OSError as exc:
        raise ConfigError(_explain(exc, host, port)) from exc


def check_port(port: int) -> None:
    """Refuse a port that does not exist.

    Raises:
        ConfigError: It does not.
    """
    if not 0 <= port <= LAST_PORT:
        raise ConfigError(f"port {port} does not exist; expected 0 (any free one) to {LAST_PORT}.")


def listen_locally(path: Path) -> socket.socket:
    """Bind and listen for ourselves alone, at a path that nobody else may enter.

    A file that an earlier listener left there is replaced: names come again after a reload.
    """
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(str(path))
    listener.listen(BACKLOG)
    return listener


def fix_port(address: str) -> str:
    """Return a tcp address with a port: a free one in place of `*` or 0.

    Chosen once for all lives of the dispatcher, so that clients find it again.

    Raises:
        ConfigError: It is no tcp address on loopback.
    """
    scheme, _, rest = check_address(address).partition("://")
    if scheme != "tcp":
        raise ConfigError(f"--direct is {address!r}; expected tcp://127.0.0.1:<port>.")
    host, _, port = rest.rpartition(":")
    if port not in ("*", "0"):
        return address
    with socket.create_server((host, 0)) as free:
        return f"tcp://{host}:{free.getsockname()[1]}"


def _explain(exc: OSError, host: str, port: int) -> str:
    if exc.errno == errno.EADDRINUSE:
        return (
            f"port {port} is in use on {host}. Stop the other server, or choose another port "
            "with --port (0: any free one)."
        )
    if exc.errno == errno.EACCES:
        return f"port {port} needs more rights than you have; choose one above 1023 with --port."
    return f"cannot listen on {host} port {port}: {exc.strerror or exc}"


def url(host: str, port: int, *, scheme: str = "http") -> str:
    """Return the address that a client on this machine uses."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"
