"""The file of API keys: names, limits, and hashes. No key can be read from it.

A key is `tfr_<id>_<secret>`. The id finds its entry; what is compared is a hash of the whole
key. The secret is 256 random bits, which nobody tries out, so a fast hash is enough: slow ones
protect words that people choose.
"""

from __future__ import annotations

import contextlib
import fcntl
import hmac
import os
import re
import secrets
import stat
import tempfile
from collections.abc import Callable
from datetime import datetime, timezone
from hashlib import blake2b
from pathlib import Path
from typing import NamedTuple

import msgspec

from tfrunner.errors import AlreadyExists, ConfigError, NotFound, NotWritten, did_you_mean

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
BEGIN = b"tfr_"
ID_BYTES = 6
SECRET_BYTES = 32
WRITABLE_BY_OTHERS = 0o002


class StoredKey(
    msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True
):
    """One key, as the file knows it.

    Args:
        name: Whose it is: the client whose share of the workers' time its requests count for.
        id: What its text says after `tfr_`.
        hash: BLAKE2b of its text, in hexadecimal.
        created: When, in ISO 8601.
        rate: Requests a second; None: any number.
        in_flight: Requests at a time; None: any number.
    """

    name: str
    id: str
    hash: str
    created: str = ""
    rate: float | None = None
    in_flight: int | None = None

    def fits(self, key: bytes) -> bool:
        """Return whether a key is this one, in a time that does not tell how nearly."""
        return hmac.compare_digest(self.hash, hash_key(key))


class _Content(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    keys: tuple[StoredKey, ...] = ()


class MadeKey(NamedTuple):
    """A new key: its text, which is shown once, and what the file keeps."""

    text: str
    stored: StoredKey


def make_key(name: str, *, rate: float | None = None, in_flight: int | None = None) -> MadeKey:
    """Return a new key.

    Args:
        name: Letters, digits and `._-`, 63 at most.
        rate: Requests a second.
        in_flight: Requests at a time.

    Raises:
        ConfigError: The name or a limit is none.
    """
    key_id = secrets.token_hex(ID_BYTES)
    text = f"tfr_{key_id}_{secrets.token_urlsafe(SECRET_BYTES)}"
    stored = StoredKey(
        name=name,
        id=key_id,
        hash=hash_key(text.encode()),
        created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        rate=rate,
        in_flight=in_flight,
    )
    _check(stored, "the new key")
    return MadeKey(text, stored)


def hash_key(key: bytes) -> str:
    """Return what the file keeps of a key."""
    return blake2b(key, digest_size=32, person=b"tfrunner.api.key").hexdigest()


def id_of(key: bytes) -> str:
    """Return the id that a text which may be a key has in it, "" if it has none."""
    begin, _, rest = key[len(BEGIN) :].partition(b"_")
    return begin.decode("latin-1") if key.startswith(BEGIN) and rest else ""


def read_keys(path: Path) -> tuple[StoredKey, ...]:
    """Return the keys of a file.

    Raises:
        ConfigError: It cannot be read, or holds something else, or anybody may write to it.
    """
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            content = msgspec.json.decode(file.read(), type=_Content)
    except OSError as exc:
        raise ConfigError(
            f"the API keys {path} cannot be read: {exc.strerror}. "
            "`tfrunner keys create NAME` makes them."
        ) from exc
    except (msgspec.MsgspecError, UnicodeDecodeError) as exc:
        raise ConfigError(f"{path} holds no API keys: {exc}") from exc
    if mode & WRITABLE_BY_OTHERS:
        raise ConfigError(f"anybody may write to the API keys {path}: run `chmod 600 {path}`.")
    for each in content.keys:
        _check(each, f"{path}: key {each.name!r}")
    for field in ("name", "id"):
        values = [getattr(each, field) for each in content.keys]
        if twice := [value for value in values if values.count(value) > 1]:
            raise ConfigError(f"{path}: two keys have the {field} {twice[0]!r}.")
    return content.keys


def _check(key: StoredKey, at: str) -> None:
    if not NAME.fullmatch(key.name):
        raise ConfigError(
            f"{at}: the name is {key.name!r}; expected letters, digits, and ._-, 63 at most."
        )
    if key.rate is not None and not 0 < key.rate < float("inf"):
        raise ConfigError(f"{at}: rate is {key.rate!r}; expected requests a second, above 0.")
    if key.in_flight is not None and key.in_flight < 1:
        raise ConfigError(f"{at}: in_flight is {key.in_flight!r}; expected at least 1.")


def add_key(path: Path, key: StoredKey) -> None:
    """Add a key; make the file, for its owner alone, if there is none.

    Raises:
        AlreadyExists: There is one of that name.
        ConfigError: The file holds something else.
        NotWritten: It cannot be written.
    """

    def add(keys: tuple[StoredKey, ...]) -> tuple[StoredKey, ...]:
        if key.name in [each.name for each in keys]:
            raise AlreadyExists(
                f"there is a key {key.name!r} in {path}: `tfrunner keys delete {key.name}` "
                "first, or choose another name."
            )
        return (*keys, key)

    _change(path, add)


def delete_key(path: Path, name: str) -> None:
    """Delete a key; running servers refuse it from their next look at the file on.

    Raises:
        NotFound: There is none of that name.
        ConfigError: The file cannot be read.
        NotWritten: It cannot be written.
    """

    def delete(keys: tuple[StoredKey, ...]) -> tuple[StoredKey, ...]:
        names = [each.name for each in keys]
        if name not in names:
            raise NotFound(f"there is no key {name!r} in {path}.{did_you_mean(name, names)}")
        return tuple(each for each in keys if each.name != name)

    _change(path, delete)


def _change(path: Path, change: Callable[[tuple[StoredKey, ...]], tuple[StoredKey, ...]]) -> None:
    """Write what a function makes of the keys: whole, or nothing, and one writer at a time."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        folder = os.open(path.parent, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as exc:
        raise NotWritten(f"{path} cannot be written: {exc.strerror}.") from exc
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        keys = change(read_keys(path) if path.exists() else ())
        _write(path, msgspec.json.format(msgspec.json.encode(_Content(keys)), indent=2) + b"\n")
    except OSError as exc:
        raise NotWritten(f"{path} cannot be written: {exc.strerror}.") from exc
    finally:
        os.close(folder)


def _write(path: Path, text: bytes) -> None:
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=path.name)  # mode 0600
    try:
        with open(descriptor, "wb") as file:
            _keep_rights(descriptor, path)
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        raise


def _keep_rights(descriptor: int, path: Path) -> None:
    """Give a new file the owner, group and mode of the one that it replaces.

    Else a server of another user could not read it, and would know deleted keys for ever.
    """
    try:
        old = path.stat()
    except FileNotFoundError:
        return
    try:
        os.fchown(descriptor, old.st_uid, old.st_gid)
    except OSError as exc:
        raise NotWritten(
            f"{path} stays as it was: it belongs to user {old.st_uid} and group {old.st_gid}, "
            f"which a new file cannot be given ({exc.strerror}). Run this as its owner, who is "
            "in that group, or as root."
        ) from exc
    os.fchmod(descriptor, stat.S_IMODE(old.st_mode))  # last: a change of owner may change it
