"""One entry of the model store: a version's folder, and its `model.yaml`. Never TensorFlow."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import yaml

from tfrunner.custom_objects import CUSTOM_OBJECTS_FILE, read_custom_objects
from tfrunner.errors import CorruptModel, StateError
from tfrunner.hashes import FileInfo, hash_file
from tfrunner.options import ModelOptions
from tfrunner.renamed import Renamed
from tfrunner.specs import MethodSpec, ModelSpec
from tfrunner.tags import Tag

if TYPE_CHECKING:
    from tfrunner.runner import Runner

INFO_FILE = "model.yaml"
SAVED_MODEL = "saved_model"
EXAMPLES_FILE = "examples.npz"
FORMAT = 1


class ModelInfo(msgspec.Struct, frozen=True, kw_only=True):
    """What `model.yaml` holds.

    Args:
        format: Version of this format.
        serial: 1, 2, 3, ... within the name, in the order of saving.
        creation_time: UTC, ISO 8601.
        module: "tensorflow" or "keras": whose `save` wrote it.
        imported: Whether it came out of an archive, so that somebody else may have written it.
        methods: Specification of each method.
        framework: Versions of what wrote the model: python, tensorflow, keras, ...
        files: The other files of the entry, by path relative to it.
    """

    format: int = FORMAT
    name: str
    version: str
    serial: int = 0
    creation_time: str
    module: str = "tensorflow"
    imported: bool = False
    methods: dict[str, MethodSpec]
    labels: dict[str, str] = {}
    metadata: dict[str, Any] = {}
    framework: dict[str, str] = {}
    files: dict[str, FileInfo] = {}

    api_version = Renamed()
    context = Renamed()
    options = Renamed()
    signatures = Renamed()

    @property
    def tag(self) -> Tag:
        """Name and version."""
        return Tag(self.name, self.version)


class Model:
    """A saved model; got from the store, equal to another by its tag.

    Args:
        info: What its `model.yaml` holds.
        path: The version's folder.
        options: How its runners call it; not stored.
    """

    export = Renamed()
    import_from = Renamed()
    to_runnable = Renamed()

    def __init__(self, info: ModelInfo, path: Path, options: ModelOptions | None = None) -> None:
        self.info = info
        self.path = path
        self.options = options or ModelOptions()
        self._custom_objects: dict[str, Any] | None = None

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
    def custom_objects(self) -> dict[str, Any]:
        """The objects given when saving; {} if none. Read at first use, from this machine's store.

        Raises:
            StateError: The model was imported. See `load_custom_objects`.
            CorruptModel: They cannot be read.
        """
        return self.load_custom_objects()

    @property
    def size(self) -> int:
        """Bytes on disk."""
        return sum(file.size for file in self.info.files.values())

    file_size = size

    def path_of(self, item: str) -> Path:
        """Return the path of a file or folder of the entry."""
        return self.path / item

    @property
    def age_key(self) -> tuple[datetime, int]:
        """What the newest version has most of: creation time, then serial number."""
        return self.creation_time, self.info.serial

    def verify(self) -> None:
        """Check every file of the entry against its hash; reads all of them.

        Raises:
            CorruptModel: One has changed or is missing.
        """
        for name in self.info.files:
            self._check_hash(name)

    def _check_hash(self, name: str) -> None:
        """Check one file of the entry against its hash."""
        file = self.path / name
        if not file.is_file() or hash_file(file) != self.info.files[name]:
            raise CorruptModel(
                f"{file} is not the file that was saved: its hash differs. Save the model again."
            )

    def with_options(self, options: ModelOptions | None = None, /, **changes: Any) -> Model:
        """Return the same model, called in another way by its runners.

        Args:
            options: All of them; by default those that it has.
            changes: `partial_kwargs`: by method, arguments that hold where a caller gives no
                others.

        Raises:
            ConfigError: There is no such option, or its value has the wrong type.
        """
        changed = (options or self.options).with_options(**changes)
        return Model(self.info, self.path, changed)

    def to_runner(
        self,
        name: str | None = None,
        *,
        max_batch_size: int | None = None,
        max_latency_ms: float | None = None,
        method_configs: Mapping[str, Any] | None = None,
        embedded: bool = False,
        scheduling_strategy: None = None,
    ) -> Runner:
        """Return a runner of this model.

        Args:
            name: The runner's name; the model's name by default.
            max_batch_size: Most rows in one batch of the server's.
            max_latency_ms: Milliseconds after which a call fails that gives no timeout.
            method_configs: The two before, by method.
            embedded: Load the model in each api process: no worker, no batching.
            scheduling_strategy: None: the server decides where workers run.

        Raises:
            ConfigError: An option is unknown or out of range.
        """
        from tfrunner.runner import Runner

        return Runner(
            self,
            name=name,
            max_batch_size=max_batch_size,
            max_latency_ms=max_latency_ms,
            method_configs=method_configs,
            embedded=embedded,
            scheduling_strategy=scheduling_strategy,
        )

    def load_custom_objects(self, *, trust: bool = False) -> dict[str, Any]:
        """Return the objects given when saving; {} if none. Runs the code that they bring.

        Args:
            trust: Also where the model was imported, because you know who made the archive.

        Raises:
            StateError: The model was imported, and `trust` is not given.
            CorruptModel: They cannot be read, or are not those that were saved.
        """
        if self._custom_objects is None:
            if CUSTOM_OBJECTS_FILE not in self.info.files:
                return {}
            if self.info.imported and not trust:
                raise StateError(
                    f"the custom objects of {self.tag} were not loaded: the model was imported, "
                    "and reading a pickle runs whatever code its author put into it, with your "
                    "rights. If you trust where the archive came from, call "
                    "model.load_custom_objects(trust=True). Serving the model does not need them."
                )
            self._check_hash(CUSTOM_OBJECTS_FILE)
            self._custom_objects = read_custom_objects(self.path / CUSTOM_OBJECTS_FILE)
        return self._custom_objects

    def load_model(self, device_name: str = "/device:CPU:0") -> Any:
        """Return the Keras model if `tfrunner.keras` saved it, else the restored object.

        Imports TensorFlow.
        """
        from tfrunner import keras, tensorflow

        if self.info.module == "keras":
            return keras.load_model(self, device_name)
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
        info = parse_info(file.read_bytes())
    except FileNotFoundError:
        raise CorruptModel(f"{file} is missing. {_advice(path)}") from None
    except (OSError, ValueError, TypeError) as exc:
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


def parse_info(text: bytes) -> ModelInfo:
    """Return what the text of a `model.yaml` holds.

    Raises:
        ValueError: It is no YAML, or does not hold that.
    """
    try:
        loaded = yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except yaml.YAMLError as exc:
        raise ValueError(str(exc)) from exc
    if isinstance(loaded, dict) and loaded.get("format", FORMAT) != FORMAT:
        raise ValueError(f"format {loaded['format']!r} is not known; update tfrunner")
    info = msgspec.convert(loaded, ModelInfo)
    if datetime.fromisoformat(info.creation_time).tzinfo is None:
        raise ValueError("creation_time has no time zone")
    return info


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
