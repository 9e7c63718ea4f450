"""Who may call: API keys, looked up in a file that is read again when it changes."""

from __future__ import annotations

import logging
import os
from collections.abc import Collection
from pathlib import Path

from tfrunner.api.key_file import StoredKey, id_of, read_keys
from tfrunner.api.limits import Usage
from tfrunner.errors import ConfigError, Unauthorized

BEARER = b"bearer "

NOBODY = StoredKey(name="nobody", id="", hash="0" * 64)
"""What a key of unknown id is compared with, so that it takes as long."""

logger = logging.getLogger("tfrunner.api")

Stamp = tuple[int, int, int]


class Keys:
    """The keys of a file, and what each has used.

    Args:
        path: The file.
        processes: Api processes, which share the limits.
        open_paths: What needs no key to be read.
    """

    def __init__(self, path: Path, *, processes: int = 1, open_paths: Collection[str] = ()) -> None:
        self.open_paths = frozenset(open_paths)
        self._path = path
        self._processes = processes
        self._stored: dict[str, StoredKey] = {}
        self._usages: dict[str, Usage] = {}
        self._stamp: Stamp | None = None

    def __repr__(self) -> str:
        return f"<Keys {self._path} [{len(self._stored)} keys]>"

    def load(self) -> None:
        """Read the file.

        Raises:
            ConfigError: It cannot be read, or holds something else.
        """
        self._stamp = _stamp(self._path)
        stored = {each.id: each for each in read_keys(self._path)}
        self._usages = {
            each.id: self._usages.get(each.id) or Usage(each.name) for each in stored.values()
        }
        for each in stored.values():
            self._usages[each.id].limit(
                rate=each.rate, in_flight=each.in_flight, processes=self._processes
            )
        self._stored = stored

    def refresh(self) -> None:
        """Read the file again if it has changed; one that cannot be read changes nothing."""
        if _stamp(self._path) == self._stamp:
            return
        try:
            self.load()
        except ConfigError as exc:
            logger.error("the API keys stay as they were: %s", exc.message)
        else:
            logger.info("%d API keys read anew from %s", len(self._stored), self._path)

    def find(self, key: bytes) -> Usage:
        """Return what a key has used.

        Raises:
            Unauthorized: There is no key, or none that is known.
        """
        if not key:
            raise Unauthorized(
                "the request has no API key. Send it as `Authorization: Bearer <key>` or as "
                "`X-Api-Key: <key>`."
            )
        key_id = id_of(key)
        stored = self._stored.get(key_id, NOBODY)
        if not stored.fits(key) or stored is NOBODY:
            raise Unauthorized("the server does not know this API key.")
        return self._usages[key_id]


def read_key(authorization: bytes, api_key: bytes) -> bytes:
    """Return the key that the headers of a request hold, b"" if they hold none.

    Args:
        authorization: Authorization; only its scheme Bearer is looked at.
        api_key: X-Api-Key.
    """
    if authorization[: len(BEARER)].lower() == BEARER:
        return authorization[len(BEARER) :].strip()
    return api_key.strip()


def _stamp(path: Path) -> Stamp | None:
    """Return what changes when a file is replaced or written to, None if there is none."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return (status.st_ino, status.st_mtime_ns, status.st_size)
