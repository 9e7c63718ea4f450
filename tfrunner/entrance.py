"""What stands between the network and an api process: bounds, TLS, keys, CORS, the access log."""

from __future__ import annotations

import msgspec

from tfrunner.defaults import DEFAULTS


class Bounds(msgspec.Struct, frozen=True):
    """What the connections of one api process may use.

    Args:
        max_connections: Most open at a time; the next ones are answered 503.
        header_limit: Most bytes of a request's first line and headers.
        body_limit: Most bytes of a body.
        buffer_limit: Most bytes that the bodies being received hold together, and as many
            that answers being sent hold.
        receive_timeout: Seconds in which the head of a request, and then each next 64 KiB of
            its body, must arrive.
        send_timeout: Seconds in which each next 64 KiB of an answer must be taken.
        keep_alive: Seconds that a connection may be idle.
    """

    max_connections: int = DEFAULTS.max_connections
    header_limit: int = DEFAULTS.header_limit
    body_limit: int = DEFAULTS.body_limit
    buffer_limit: int = DEFAULTS.buffer_limit
    receive_timeout: float = DEFAULTS.receive_timeout
    send_timeout: float = DEFAULTS.send_timeout
    keep_alive: float = DEFAULTS.keep_alive


class Tls(msgspec.Struct, frozen=True):
    """With what connections are encrypted; all are files in PEM form.

    Args:
        certfile: The certificate, and those between it and its authority.
        keyfile: Its private key; "": in `certfile` too.
        password_file: Holds the private key's password; "": $TFRUNNER_SSL_PASSWORD, if it has one.
        ca_certs: Authorities of which clients must show a certificate; "": they need none.
    """

    certfile: str
    keyfile: str = ""
    password_file: str = ""
    ca_certs: str = ""


class Entrance(msgspec.Struct, frozen=True):
    """What every request has to pass, and what is noted of it.

    Args:
        tls: None: connections are not encrypted.
        keys_file: The API keys; "": nobody needs one.
        processes: Api processes, which share the limits of the keys.
        metrics_access: Who may read /metrics: "key", "open" or "off".
        cors_origins: Web origins whose pages may read answers; `*`: all.
        access_log: A line for each request: "off", "text" or "json".
        access_log_file: Where to; "": standard error.
    """

    tls: Tls | None = None
    keys_file: str = ""
    processes: int = 1
    metrics_access: str = DEFAULTS.metrics_access
    cors_origins: tuple[str, ...] = ()
    access_log: str = DEFAULTS.access_log
    access_log_file: str = ""
