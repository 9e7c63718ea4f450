"""Tells systemd, or who else started the server so, that it is ready, and that it ends.

Source: sd_notify(3): one datagram of `NAME=value` lines to the socket that $NOTIFY_SOCKET
names; `@` begins the name of an abstract one.
"""

from __future__ import annotations

import logging
import socket

from tfrunner import config

log = logging.getLogger("tfrunner.supervisor")


def notify(text: str) -> None:
    """Send a line, if anybody wants to know; never fail for it."""
    address = config.notify_socket()
    if not address:
        return
    address = "\0" + address[1:] if address.startswith("@") else address
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            sender.sendto(text.encode(), address)
    except OSError as exc:
        log.warning("$NOTIFY_SOCKET cannot be told %s: %s", text, exc.strerror)
