"""One entry of the model store: a version's folder, and its `model.yaml`. Never TensorFlow."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import yaml

from tfrunner.errors import CorruptModel
from tfrunner.specs import MethodSpec, ModelSpec
from tfrunner.tags import Tag

if TYPE_CHECKING:
    from tfrunner.runner import Runner

INFO_FILE = "model.yaml"
SAVED_MODEL = "saved_model"
EXAMPLES_FILE = "examples.npz"
FORMAT = 1


class FileInfo(msgspec.Struct, frozen=True):
    """Size in bytes and SHA-256 (hex) of a stored file."""

    size: int
    sha256: str


class ModelInfo(msgspec.Struct, frozen=True, kw_only=True):
    """What `model.yaml` holds.

    Args:
        format: Version of this format.
        serial: 1, 2, 3, ... within the name, in the order of saving.
        creation_time: UTC, ISO 8601.
        methods: Specification of each method.
        framework: Versions of what wrote the model: python, tensorflow, keras, ...
        files: The other files of the entry, by path relative to it.
    """

    format: int = FORMAT
    name: str
    version: str
    serial: int = 0
    creation_time: str
    methods: dict[str, MethodSpec]
    labels: dict[str, str] = {}
    metadata: dict[str, Any] = {}
    framework: dict[str, str] = {}
    files: dict[str, FileInfo] = {}

    @property
    def tag(self) -> Tag:
        """Name and version."""
        return Tag(self.name, self.version)


class Model:
    """A saved model; got from the store, equal to another by its tag.

    Args:
        info: What its `model.yaml` holds.
        path: The version's folder.
    """

    def __init__(self, info: ModelInfo, path: Path) -> None:
        self.info = info
        self.path = path

    @property
    def tag(self) -> Tag:
        """Name and version."""
        return self.info.tag

    @property
    def spec(self) -> ModelSpec:
        """The model as callers see it."""
        info = self.info
        return ModelSpec(
            name=info.name,
            version=info.version,
            serial=info.serial,
            methods=info.methods,
            labels=info.labels,
            metadata=info.metadata,
        )

    @property
    def labels(self) -> dict[str, str]:
        """The labels given when saving."""
        return self.info.labels

    @property
    def metadata(self) -> dict[str, Any]:
        """The metadata given when saving."""
        return self.info.metadata

    @property
    def creation_time(self) -> datetime:
        """When it was saved, in UTC."""
        return datetime.fromisoformat(self.info.creation_time)

    @property
    def size(self) -> int:
        """Bytes on disk."""
        return sum(file.size for file in self.info.files.values())

    @property
    def age_key(self) -> tuple[datetime, int]:
        """What the newest version has most of: creation time, then serial number."""
        return self.creation_time, self.info.serial

    def verify(self) -> None:
        """Check every file of the entry against its hash; reads all of them.

        Raises:
            CorruptModel: One has changed or is missing.
        """
        found = hash_files(self.path)
        for name, expected in self.info.files.items():
            if found.get(name) != expected:
                raise CorruptModel(
                    f"{self.path / name} is not the file that was saved: "
                    "its hash differs. Save the model again."
                )

    def to_runner(self, *, name: str | None = None) -> Runner:
        """Return a runner of this model.

        Args:
            name: The runner's name; the model's name by default.
        """
        from tfrunner.runner import Runner

        return Runner(self, name=name)

    def load_model(self, device_name: str = "/device:CPU:0") -> Any:
        """Return the restored TensorFlow object. Imports TensorFlow."""
        from tfrunner import tensorflow

        return tensorflow.load_model(self, device_name)

    def __eq__(self, other: object) -> bool:
        return self.tag == other.tag if isinstance(other, Model) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.tag)

    def __repr__(self) -> str:
        return f"<Model {self.tag} [serial {self.info.serial} | {self.path}]>"


def read_model(path: Path) -> Model:
    """Return the model of a version's folder.

    Raises:
        CorruptModel: `model.yaml` or one of its files is missing or wrong; the message names
            the file and the reason.
        FileNotFoundError: There is no such folder.
    """
    if not path.is_dir():
        raise FileNotFoundError(path)
    file = path / INFO_FILE
    try:
        loaded = yaml.load(file.read_bytes(), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
        if isinstance(loaded, dict) and loaded.get("format", FORMAT) != FORMAT:
            raise ValueError(f"format {loaded['format']!r} is not known; update tfrunner")
        info = msgspec.convert(loaded, ModelInfo)
        datetime.fromisoformat(info.creation_time)
    except FileNotFoundError:
        raise CorruptModel(f"{file} is missing. {_advice(path)}") from None
    except (OSError, yaml.YAMLError, ValueError, TypeError) as exc:
        reason = " ".join(str(exc).split())
        raise CorruptModel(f"{file} cannot be read: {reason}. {_advice(path)}") from exc
    if (info.name, info.version) != (path.parent.name, path.name):
        raise CorruptModel(
            f"{file} is that of {info.name}:{info.version}, not of "
            f"{path.parent.name}:{path.name}. {_advice(path)}"
        )
    for name, expected in info.files.items():
        _check_file(path, name, expected)
    return Model(info, path)


def _check_file(path: Path, name: str, expected: FileInfo) -> None:
    """Check that a file is there with its size; its hash is `Model.verify`'s affair."""
    try:
        size = (path / name).stat().st_size
    except OSError:
        raise CorruptModel(f"{path / name} is missing. {_advice(path)}") from None
    if size != expected.size:
        raise CorruptModel(
            f"{path / name} has {size} bytes; {expected.size} were saved. {_advice(path)}"
        )


def _advice(path: Path) -> str:
    tag = f"{path.parent.name}:{path.name}"
    return f"Save the model again, or remove it with `tfrunner models delete {tag}`."


def dump_info(info: ModelInfo) -> str:
    """Return the text of `model.yaml`; equal infos give equal texts."""
    plain: Mapping[str, Any] = msgspec.json.decode(msgspec.json.encode(info))
    return yaml.safe_dump(plain, sort_keys=False, allow_unicode=True)


def hash_files(folder: Path) -> dict[str, FileInfo]:
    """Return size and hash of every file below a folder, except `model.yaml`."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path != folder / INFO_FILE:
            digest = hashlib.sha256()
            with path.open("rb") as file:
                while chunk := file.read(2**20):
                    digest.update(chunk)
            name = path.relative_to(folder).as_posix()
            found[name] = FileInfo(path.stat().st_size, digest.hexdigest())
    return found
