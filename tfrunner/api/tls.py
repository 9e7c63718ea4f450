"""TLS: the server's certificate, and the authorities of its clients'."""

from __future__ import annotations

import contextlib
import logging
import os
import ssl
from pathlib import Path

from tfrunner import config
from tfrunner.entrance import Tls
from tfrunner.errors import ConfigError

logger = logging.getLogger("tfrunner.api")

Stamps = tuple[int, ...]
"""Of the files that can be looked at: a file may be written twice within one tick of its time."""


def make_context(tls: Tls) -> ssl.SSLContext:
    """Return what connections are encrypted with: TLS 1.2 or newer.

    Raises:
        ConfigError: A file cannot be read, or is none of its kind, or they do not fit together.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    load_certificate(context, tls)
    if tls.ca_certs:
        _check_readable("--ssl-ca-certs", tls.ca_certs)
        try:
            context.load_verify_locations(tls.ca_certs)
        except ssl.SSLError as exc:
            raise ConfigError(f"--ssl-ca-certs {tls.ca_certs}: it holds no certificates.") from exc
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def load_certificate(context: ssl.SSLContext, tls: Tls) -> None:
    """Have a context show the certificate of the files, from the next connection on.

    Raises:
        ConfigError: See `make_context`.
    """
    _check_readable("--ssl-certfile", tls.certfile)
    _check_readable("--ssl-keyfile", tls.keyfile or tls.certfile)
    password = _read_password(tls)
    try:
        # A callback, or OpenSSL would ask at the terminal.
        context.load_cert_chain(tls.certfile, tls.keyfile or None, lambda: password)
    except ssl.SSLError as exc:
        files = " and ".join(each for each in (tls.certfile, tls.keyfile) if each)
        if "KEY_VALUES_MISMATCH" in str(exc):
            why = "the private key is not that of the certificate"
        elif password:
            why = "the password is wrong, or they hold no certificate and key"
        else:
            why = (
                "they hold no certificate and key, or the key has a password: give it with "
                "--ssl-password-file or $TFRUNNER_SSL_PASSWORD"
            )
        raise ConfigError(f"TLS with {files}: {why}.") from exc


def _read_password(tls: Tls) -> str:
    if not tls.password_file:
        return config.ssl_password()
    _check_readable("--ssl-password-file", tls.password_file)
    return Path(tls.password_file).read_text().rstrip("\r\n")


def _check_readable(option: str, path: str) -> None:
    try:
        with open(path, "rb"):
            pass
    except OSError as exc:
        raise ConfigError(f"{option} {path} cannot be read: {exc.strerror}.") from exc


class Certificate:
    """A server's certificate, which is renewed while it runs.

    Args:
        tls: Its files.
    """

    def __init__(self, tls: Tls) -> None:
        self._tls = tls
        self._context: ssl.SSLContext | None = None
        self._stamps: Stamps = ()

    def load(self) -> ssl.SSLContext:
        """Return what connections are encrypted with.

        Raises:
            ConfigError: See `make_context`.
        """
        self._stamps = self._look()
        self._context = make_context(self._tls)
        return self._context

    def refresh(self) -> None:
        """Load the certificate again if its files have changed; a broken one changes nothing."""
        stamps = self._look()
        if stamps == self._stamps or self._context is None:
            return
        self._stamps = stamps
        try:
            make_context(self._tls)  # the one in use must not get half of a pair
            load_certificate(self._context, self._tls)
        except ConfigError as exc:
            logger.error("the certificate stays as it was: %s", exc.message)
        else:
            logger.info("the certificate %s was read anew", self._tls.certfile)

    def _look(self) -> Stamps:
        stamps: list[int] = []
        for path in (self._tls.certfile, self._tls.keyfile or self._tls.certfile):
            with contextlib.suppress(OSError):
                status = os.stat(path)
                stamps += (status.st_ino, status.st_mtime_ns, status.st_size)
        return tuple(stamps)
