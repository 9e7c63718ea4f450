"""Takes archives into the store, and copies entries. Trusts nothing that an archive says.

1. `model.yaml` is found, and read with bounds. 2. Everything in it is checked: tag, time, the
names of the files. 3. The files are written into a fresh folder of the store, each by name, size
and hash. 4. The store takes the folder. Whatever fails, nothing is left.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping
from contextlib import closing, contextmanager
from datetime import datetime, timedelta, timezone
from pathlib import Path

import msgspec
import yaml

from tfrunner.archives import Format, OnProgress, by_content, disk_errors_named
from tfrunner.entry import INFO_FILE, Model, ModelInfo, dump_info, parse_info
from tfrunner.errors import AlreadyExists, CorruptModel, InvalidInput, NotFound
from tfrunner.extracting import check_files, extract, plain_name
from tfrunner.members import members
from tfrunner.store import Store
from tfrunner.tags import LATEST, Tag, is_tag_part
from tfrunner.unpacking import Bounded, Member

LONGEST_INFO = 16 * 2**20
"""Bytes of a `model.yaml`."""

DEEPEST_INFO = 100
"""How deep a `model.yaml` may nest."""

LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

CLOCKS_DIFFER = timedelta(days=1)
"""How far in the future a model may have been saved: it would stay the newest until then."""


def import_archive(
    store: Store, path: Path, name: str | Tag | None, *, trust: bool, on_progress: OnProgress
) -> Model:
    """Take an archive, or a folder that was one, into the store.

    Args:
        store: Where to.
        path: The archive.
        name: Another name, or name and version; by default those that it had.
        trust: Whether its author is known: its custom objects may be read.
        on_progress: Is told how many bytes are written, and of how many.

    Raises:
        NotFound: There is no such file.
        InvalidInput: It is no archive of ours, damaged or hostile.
        AlreadyExists: The tag is taken.
        NotWritten: The disk is full, or may not be written to.
    """
    if not path.exists():
        raise NotFound(f"There is no {path}; expected an archive or folder of a model.")
    with _archive_named(path), disk_errors_named(store.models):
        form = _form(path)
        with closing(members(path, form, is_trusted=trust)) as found:
            info = _checked(_read_info(found))
        imported = _with_tag(info, _renamed(info, name), imported=not trust)
        with closing(members(path, form, is_trusted=trust)) as found:
            return _take(store, found, imported, on_progress)


def copy_entry(store: Store, model: Model, tag: str | Tag, on_progress: OnProgress) -> Model:
    """Copy a model to another tag, as a version that is saved now.

    Args:
        store: That of the model.
        model: What is copied.
        tag: Another name, which keeps the version, or name and version.
        on_progress: Is told how many bytes are written, and of how many.

    Raises:
        AlreadyExists: The tag is taken.
        CorruptModel: A file of the model has changed or is missing.
        NotWritten: The disk is full, or may not be written to.
    """
    now = datetime.now(timezone.utc).isoformat()
    info = _with_tag(model.info, _renamed(model.info, tag), creation_time=now)
    with disk_errors_named(store.models):
        try:
            with closing(stored_members(model)) as found:
                return _take(store, found, info, on_progress)
        except InvalidInput as exc:
            raise CorruptModel(f"{model.tag} was not copied: {exc.message}") from exc


def stored_members(model: Model) -> Generator[Member, None, None]:
    """Yield the files of a model in the store, all but `model.yaml`.

    Raises:
        CorruptModel: One is missing.
    """
    for name, expected in model.info.files.items():
        try:
            file = (model.path / name).open("rb")
        except OSError as exc:
            raise CorruptModel(f"{model.path / name} cannot be read: {exc.strerror}.") from exc
        with file:
            yield Member(name, expected.size, Bounded(file.read, None).read)


def _form(path: Path) -> Format:
    """Return what a path is."""
    if path.is_dir():
        return Format.FOLDER
    if not path.is_file():
        raise InvalidInput("it is neither a file nor a folder.")
    try:
        file = path.open("rb")
    except OSError as exc:
        raise InvalidInput(f"it cannot be read: {exc.strerror}.") from exc
    with file:
        return by_content(file)


def _take(store: Store, found: Iterator[Member], info: ModelInfo, on_progress: OnProgress) -> Model:
    """Write the files of an entry, and take them into the store."""
    try:
        store.check_free(info.tag)
        with store.new() as folder:
            extract(found, folder, info.files, on_progress)
            return store.commit(folder, info, files=info.files)
    except AlreadyExists as exc:
        raise AlreadyExists(
            f"Model {info.tag} exists; saved models are never changed. Choose another name or "
            f"version, or delete it first: `tfrunner models delete {info.tag}`."
        ) from exc


@contextmanager
def _archive_named(path: Path) -> Iterator[None]:
    """Say which archive was not imported.

    Raises:
        InvalidInput: What was raised inside, with the path.
    """
    try:
        yield
    except InvalidInput as exc:
        raise InvalidInput(f"{path} was not imported: {exc.message}") from exc


def _read_info(found: Iterator[Member]) -> bytes:
    """Return the text of `model.yaml`, wherever in the archive it is."""
    for member in found:
        if plain_name(member.name) == INFO_FILE and not member.is_folder:
            if member.size > LONGEST_INFO:
                raise InvalidInput(f"its {INFO_FILE} has {member.size} bytes; too many.")
            return b"".join(iter(lambda: member.read(LONGEST_INFO), b""))  # noqa: B023
    raise InvalidInput(
        f"it has no {INFO_FILE}; expected what `tfrunner models export` wrote. If it holds a "
        "SavedModel, unpack it and import the folder that saved_model.pb is in."
    )


def _checked(text: bytes) -> ModelInfo:
    """Return what `model.yaml` holds, if an entry of the store can hold that."""
    try:
        check_yaml(text)
        if is_bentoml(yaml.load(text, Loader=LOADER)):
            raise InvalidInput(
                "it is a model of BentoML. Unpack it, `mkdir model && tar -xf ARCHIVE -C model`, "
                "and import the folder: `tfrunner models import model`."
            )
        info = parse_info(text)
        dump_info(info)
    except (ValueError, TypeError, OverflowError, RecursionError, yaml.YAMLError) as exc:
        reason = " ".join(str(exc).split())
        raise InvalidInput(f"its {INFO_FILE} cannot be read: {reason}.") from exc
    if not (is_tag_part(info.name) and is_tag_part(info.version)) or info.version == LATEST:
        raise InvalidInput(f"{info.name!r} and {info.version!r} are no name and version.")
    if datetime.fromisoformat(info.creation_time) > datetime.now(timezone.utc) + CLOCKS_DIFFER:
        raise InvalidInput(f"it says that it was saved in the future: {info.creation_time}.")
    for name, method in info.methods.items():
        if name != method.name:
            raise InvalidInput(f"its method {name!r} calls itself {method.name!r}.")
    check_files(info.files)
    return info


def check_yaml(text: bytes) -> None:
    """Refuse what grows when it is read: aliases (`*a`), and nesting without end.

    Raises:
        ValueError: It has one of them.
        yaml.YAMLError: It is no YAML.
    """
    depth = 0
    for event in yaml.parse(text, Loader=LOADER):
        if isinstance(event, yaml.AliasEvent):
            raise ValueError("it has aliases")
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
        if isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        if depth > DEEPEST_INFO:
            raise ValueError(f"it nests deeper than {DEEPEST_INFO}")


def is_bentoml(info: object) -> bool:
    """Return whether what a `model.yaml` holds was written by BentoML."""
    if not isinstance(info, Mapping) or "api_version" not in info:
        return False
    context = info.get("context")
    return isinstance(context, Mapping) and "bentoml_version" in context


def _renamed(info: ModelInfo, name: str | Tag | None) -> Tag:
    """Return the tag that an entry gets."""
    if name is None:
        return info.tag
    wanted = Tag.parse(name)
    if wanted.version == LATEST:
        raise InvalidInput(f"{LATEST!r} always means the newest version; choose another.")
    return Tag(wanted.name, wanted.version or info.version)


def _with_tag(info: ModelInfo, tag: Tag, **changes: object) -> ModelInfo:
    return msgspec.structs.replace(info, name=tag.name, version=str(tag.version), **changes)
