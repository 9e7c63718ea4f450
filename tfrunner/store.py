"""The model store: `<home>/models/<name>/<version>/` with `model.yaml` and `saved_model/`.

A version is written in a folder of its own below `models/.new/` and renamed into place, so
that it is there whole or not at all, and is never changed afterwards. Who gives out serial
numbers holds the name's lock in `models/.locks/`. Reading needs no lock and no TensorFlow.

Locks are `flock`s, not lock files of a library: the kernel frees them with their holder,
waiting for one costs nothing, and the file beside them can keep the last serial number.
"""

from __future__ import annotations

import builtins
import fcntl
import logging
import os
import secrets
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import msgspec

from tfrunner.entry import INFO_FILE, Model, ModelInfo, dump_info, read_model
from tfrunner.errors import (
    AlreadyExists,
    CorruptModel,
    InvalidInput,
    NotFound,
    did_you_mean,
)
from tfrunner.hashes import FileInfo, hash_files
from tfrunner.tags import LATEST, Tag, is_tag_part

__all__ = ["Model", "Store"]

log = logging.getLogger(__name__)


class Store:
    """The models below one folder.

    Args:
        root: `$TFRUNNER_HOME`; the models are in its `models` folder.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.models = root / "models"

    def __repr__(self) -> str:
        return f"<Store {self.models}>"

    def list(self, tag: str | Tag | None = None) -> builtins.list[Model]:
        """Return the readable models: all, those of a name, or one; by name, newest first.

        Entries that cannot be read are left out; `problems` names them.

        Raises:
            NotFound: No model has that name. (An unknown version gives an empty list.)
        """
        if tag is None:
            return [model for name in self._names() for model in self._readable(name)]
        wanted = Tag.parse(tag)
        self._check_name(wanted.name)
        models = self._readable(wanted.name)
        if wanted.version is None:
            return models
        return [model for model in models if model.tag == wanted]

    def problems(self, name: str | None = None) -> builtins.list[CorruptModel]:
        """Return why entries cannot be read, of one name or of all."""
        found = []
        for each in [name] if name is not None else self._names():
            for version in self._versions(each):
                try:
                    read_model(self._path(Tag(each, version)))
                except CorruptModel as exc:
                    found.append(exc)
        return found

    def get(self, tag: str | Tag) -> Model:
        """Return one model.

        Args:
            tag: `name` or `name:latest` for the newest; else `name:` and the version, its
                serial number, or a beginning that only one version has.

        Raises:
            NotFound: There is none; the message says what there is.
            InvalidInput: Several versions begin so, or the tag is malformed.
            CorruptModel: The entry cannot be read.
        """
        wanted = Tag.parse(tag)
        self._check_name(wanted.name)
        if wanted.version in (None, LATEST):
            return self._latest(wanted.name)
        assert wanted.version is not None
        versions = self._versions(wanted.name)
        if wanted.version in versions:
            return read_model(self._path(wanted))
        if wanted.version.isdigit():
            for model in self._readable(wanted.name):
                if model.spec.serial == int(wanted.version):
                    return model
        near = [version for version in versions if version.startswith(wanted.version)]
        if len(near) > 1:
            raise InvalidInput(f"{wanted} is not clear: {', '.join(near)} begin so.")
        if not near:
            raise NotFound(
                f"No version {wanted.version!r} of model {wanted.name!r}."
                f"{did_you_mean(wanted.version, versions)}"
            )
        return read_model(self._path(Tag(wanted.name, near[0])))

    def delete(self, tag: str | Tag) -> builtins.list[Tag]:
        """Delete one version, or with a bare name all versions; return what was deleted.

        A corrupt entry is deleted by its name or its whole version.

        Raises:
            NotFound: There is no such model.
        """
        name = Tag.parse(tag).name
        self._check_name(name)
        with self._locked(name):
            gone = self.meant(tag)
            for each in gone:
                self._discard(self._path(each))
            if not self._versions(name):
                self._discard(self.models / name)
        return gone

    def meant(self, tag: str | Tag) -> builtins.list[Tag]:
        """Return the versions that a tag means to `delete`; a bare name means all.

        Raises:
            NotFound: There is no such model.
        """
        wanted = Tag.parse(tag)
        self._check_name(wanted.name)
        if wanted.version is None:
            return [Tag(wanted.name, version) for version in self._versions(wanted.name)]
        if wanted.version in self._versions(wanted.name):
            return [wanted]
        return [self.get(wanted).tag]

    def surplus(self, name: str | None, keep: int) -> builtins.list[Model]:
        """Return the readable versions that are older than the newest `keep` of their name.

        Args:
            name: Whose; None for those of every name.
            keep: At least 1.

        Raises:
            NotFound: No model has that name.
            InvalidInput: `name` has a version, or `keep` is below 1.
        """
        if name is not None and Tag.parse(name).version is not None:
            raise InvalidInput(f"{name} is one version; expected a name, of whose some are kept.")
        if type(keep) is not int or keep < 1:
            raise InvalidInput(f"keep is {keep!r}; expected a number of versions, at least 1.")
        names = sorted({model.tag.name for model in self.list(name)})
        return [model for each in names for model in self.list(each)[keep:]]

    @contextmanager
    def new(self) -> Iterator[Path]:
        """Give a fresh folder to write a model into; whatever is left of it is removed.

        `commit` takes it into the store.
        """
        path, lock = self._new_folder()
        try:
            yield path
        finally:
            shutil.rmtree(path, ignore_errors=True)
            os.close(lock)

    def commit(
        self, folder: Path, info: ModelInfo, *, files: Mapping[str, FileInfo] | None = None
    ) -> Model:
        """Take a written folder into the store under the next serial number.

        Args:
            folder: What `new` gave, with `saved_model` written.
            info: What to record; serial number and file hashes are filled in here.
            files: These hashes, where they are known.

        Raises:
            AlreadyExists: The version is taken.
        """
        hashed = dict(hash_files(folder) if files is None else files)
        hashed.pop(INFO_FILE, None)
        target = self._path(info.tag)
        with self._locked(info.name) as lock:
            self.check_free(info.tag)
            used = [model.spec.serial for model in self._readable(info.name)]
            serial = 1 + max([_last_serial(lock), *used])
            complete = msgspec.structs.replace(info, serial=serial, files=hashed)
            (folder / INFO_FILE).write_text(dump_info(complete))
            target.parent.mkdir(exist_ok=True)
            folder.rename(target)
            os.pwrite(lock, b"%d\n" % serial, 0)
        return read_model(target)

    def check_free(self, tag: Tag) -> None:
        """Raise AlreadyExists if the tag is taken."""
        if self._path(tag).exists():
            raise AlreadyExists(
                f"Model {tag} exists; saved models are never changed. Save under another "
                f"version, or without one, or delete it first: `tfrunner models delete {tag}`."
            )

    def _path(self, tag: Tag) -> Path:
        assert tag.version is not None
        return self.models / tag.name / tag.version

    def _names(self) -> builtins.list[str]:
        return _folders(self.models)

    def _versions(self, name: str) -> builtins.list[str]:
        return _folders(self.models / name)

    def _check_name(self, name: str) -> None:
        if not self._versions(name):
            known = [each for each in self._names() if self._versions(each)]
            raise NotFound(f"No model {name!r} in {self.models}.{did_you_mean(name, known)}")

    def _readable(self, name: str) -> builtins.list[Model]:
        """Return the readable versions of a name, newest first."""
        models = []
        for version in self._versions(name):
            try:
                models.append(read_model(self._path(Tag(name, version))))
            except CorruptModel as exc:
                log.warning("model left out: %s", exc)
            except FileNotFoundError:  # deleted meanwhile
                continue
        return sorted(models, key=lambda model: model.age_key, reverse=True)

    def _latest(self, name: str) -> Model:
        models = self._readable(name)
        if models:
            return models[0]
        problems = self.problems(name)
        raise problems[0] if problems else NotFound(f"No model {name!r} in {self.models}.")

    def _new_folder(self) -> tuple[Path, int]:
        """Return a fresh folder and the descriptor of its lock; sweep away what is stale.

        Creating, locking and sweeping happen under one lock: nobody sees a folder that its
        owner has not locked yet.
        """
        fresh = self.models / ".new"
        fresh.mkdir(parents=True, exist_ok=True)
        with self._locked(".new"):
            for stale in fresh.iterdir():
                _remove_if_free(stale)
            path = fresh / secrets.token_hex(8)
            path.mkdir()
            lock = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return path, lock

    def _discard(self, path: Path) -> None:
        """Remove a folder: out of sight at once, then from the disk."""
        with self.new() as trash:
            path.rename(trash / "discarded")

    @contextmanager
    def _locked(self, name: str) -> Iterator[int]:
        """Hold the lock of a name; gives the lock file's descriptor."""
        locks = self.models / ".locks"
        locks.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(locks / name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield descriptor
        finally:
            os.close(descriptor)


def _folders(path: Path) -> list[str]:
    """Return the names of the folders in a folder that can be names or versions."""
    if not path.is_dir():
        return []
    return sorted(
        child.name for child in path.iterdir() if is_tag_part(child.name) and child.is_dir()
    )


def _last_serial(lock: int) -> int:
    """Return the last serial number given out, 0 if none or unreadable."""
    text = os.pread(lock, 32, 0).strip()
    return int(text) if text.isdigit() else 0


def _remove_if_free(path: Path) -> None:
    """Remove a folder below `.new` unless the process that made it still lives."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return
    else:
        shutil.rmtree(path, ignore_errors=True)
    finally:
        os.close(descriptor)
