"""Archives that somebody made up or damaged: refused by name, and nothing is left of them."""

from __future__ import annotations

import io
import lzma
import os
import stat
import struct
import tarfile
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from tests.archive_world import (
    FILES,
    blocks,
    described,
    gz,
    info_of,
    left_in,
    member,
    put_files,
    tar,
    yaml_of,
)
from tfrunner import models
from tfrunner.entry import dump_info
from tfrunner.errors import InvalidInput, NotWritten
from tfrunner.hashes import FileInfo
from tfrunner.store import Store

EVIL = b"evil"
GRAPH = "saved_model/saved_model.pb"
ZEROS = 64_000_000
BOMB = {"saved_model/zeros": bytes(ZEROS)}


@pytest.fixture
def store(home: Path) -> Store:
    """Return an empty store."""
    return Store(home)


def refuse(store: Store, file: Path, message: str) -> None:
    """Check that an archive is refused, and that nothing anywhere is left of it."""
    around = file.parent.parent
    before = {path for path in around.rglob("*") if store.root not in [path, *path.parents]}
    with pytest.raises(InvalidInput, match=message) as caught:
        models.import_model(file)
    assert str(caught.value).startswith(f"{file} was not imported: ")
    assert str(caught.value).isprintable()
    after = {path for path in around.rglob("*") if store.root not in [path, *path.parents]}
    assert (left_in(store), after - before) == ([], set())


def pax(records: bytes, kind: bytes = tarfile.XHDTYPE) -> tuple[tarfile.TarInfo, bytes]:
    """Return an extended header."""
    return member("././@PaxHeader", records, type=kind)


def huge(name: str, size: int) -> tuple[tarfile.TarInfo, bytes]:
    """Return a member that says it has so many bytes, and has none."""
    header, data = member(name)
    header.size = size
    return header, data


def without(name: str) -> bytes:
    """Return a tar archive in which a file is missing."""
    kept = [member(each, data) for each, data in FILES.items() if each != name]
    return blocks([member("model.yaml", yaml_of()), *kept])


def wrong_sum() -> bytes:
    """Return a tar archive whose first header was changed."""
    data = bytearray(tar())
    data[0] ^= 1
    return bytes(data)


def yaml_with(old: str, new: str) -> bytes:
    """Return a right `model.yaml` in which a text was replaced."""
    text = yaml_of().decode()
    assert old in text
    return text.replace(old, new).encode()


def files_named(name: str) -> bytes:
    """Return a `model.yaml` that names one more file."""
    return yaml_of({**FILES, name: EVIL})


LINK = {"type": tarfile.SYMTYPE, "linkname": "/etc"}

TARS: dict[str, tuple[bytes, str]] = {
    "parent": (tar(member("../evil", EVIL)), r"'\.\./evil' leads out of the archive"),
    "parent inside": (tar(member("a/../../evil", EVIL)), "leads out of the archive"),
    "parent folder": (tar(member("../evil/", type=tarfile.DIRTYPE)), "leads out of the archive"),
    "absolute": (tar(member("/tmp/evil", EVIL)), "'/tmp/evil' is an absolute path"),
    "absolute in pax": (tar(pax(b"18 path=/tmp/evil\n"), member("x", EVIL)), "an absolute path"),
    "parent in pax": (tar(pax(b"16 path=../evil\n"), member("x", EVIL)), "leads out"),
    "parent in a long name": (
        tar(member("././@LongLink", b"../evil\0", type=tarfile.GNUTYPE_LONGNAME), member("x")),
        "leads out",
    ),
    "hard link": (
        tar(member("saved_model/x", type=tarfile.LNKTYPE, linkname="/etc/passwd")),
        "'saved_model/x' is a hard link",
    ),
    "symbolic link": (tar(member("saved_model/x", **LINK)), "is a symbolic link"),
    "link as a folder": (
        blocks([member("model.yaml", yaml_of()), member("saved_model", **LINK)]),
        "'saved_model' is a symbolic link",
    ),
    "long link": (tar(member("x", b"/etc\0", type=tarfile.GNUTYPE_LONGLINK)), "is a link"),
    "character device": (tar(member("x", type=tarfile.CHRTYPE, devmajor=1)), "is a device"),
    "block device": (tar(member("x", type=tarfile.BLKTYPE, devmajor=8)), "is a device"),
    "pipe": (tar(member("x", type=tarfile.FIFOTYPE)), "is a named pipe"),
    "sparse": (tar(member(GRAPH, EVIL, type=tarfile.GNUTYPE_SPARSE)), "is a sparse file"),
    "sparse in pax": (tar(pax(b"22 GNU.sparse.major=1\n"), member("x", EVIL)), "a sparse file"),
    "unknown kind": (tar(member("x", type=b"Z")), "no plain file"),
    "huge": (tar(huge("saved_model/x", 2**40)), "which model.yaml does not name"),
    "huge in pax": (tar(pax(b"19 size=1099511627776\n"), member(GRAPH)), "header cannot be read"),
    "negative": (tar(huge(GRAPH, -512)), "cannot have -512 bytes"),
    "folder with bytes": (tar(member("a/", EVIL, type=tarfile.DIRTYPE)), "cannot have 4 bytes"),
    "size that is no number": (tar(pax(b"11 size=-1\n"), member(GRAPH)), "a size of '-1'"),
    "header without end": (tar(pax(b"99 path=x\n"), member("x")), "a header cannot be read"),
    "header of length 0": (tar(pax(b"0 path=x\n"), member("x")), "a header cannot be read"),
    "huge header": (tar(pax(bytes(70_000)), member("x")), "a header of 70000 bytes"),
    "huge global header": (
        tar(pax(bytes(70_000), tarfile.XGLTYPE)),
        "a header of 70000 bytes; at most 65536",
    ),
    "twice": (tar(member(GRAPH, FILES[GRAPH])), r"saved_model\.pb' is in it twice"),
    "twice in two ways": (tar(member(f"./{GRAPH}", FILES[GRAPH])), "is in it twice"),
    "model.yaml twice": (tar(member("model.yaml", yaml_of())), "'model.yaml' is in it twice"),
    "stranger": (tar(member("saved_model/x", EVIL)), "'saved_model/x' is in it, which model.yaml"),
    "stranger that clears the screen": (tar(member("\x1b[2J", EVIL)), "x1b.* is not allowed"),
    "name that is no text": (tar(member("\udcff", EVIL)), "is not allowed"),
    "missing": (without(GRAPH), rf"'{GRAPH}' is not in it"),
    "no model.yaml": (blocks([member("x", EVIL)]), "no model.yaml.*import the folder"),
    "model.yaml is a folder": (blocks([member("model.yaml/", type=b"5")]), "no model.yaml"),
    "huge model.yaml": (blocks([huge("model.yaml", 2**30)]), "model.yaml has 1073741824 bytes"),
    "wrong sum": (wrong_sum(), "it is damaged or cut off: bad checksum"),
    "empty": (blocks([]), "it is no tar.gz|it has no model.yaml"),
    "too large": (
        tar(text=yaml_of(files=described(FILES, **{GRAPH: FileInfo(6, "0" * 64)}))),
        rf"'{GRAPH}' has 7 bytes, not 6",
    ),
    "wrong hash": (
        tar(text=yaml_of(files=described(FILES, **{GRAPH: FileInfo(7, "0" * 64)}))),
        "its hash differs",
    ),
    "negative size": (
        tar(text=yaml_of(files=described(FILES, **{GRAPH: FileInfo(-1, "0" * 64)}))),
        "has -1 bytes",
    ),
    "names a parent": (tar(text=files_named("../evil")), "leads out of the archive"),
    "names an absolute path": (tar(text=files_named("/tmp/evil")), "is an absolute path"),
    "names itself": (tar(text=files_named("model.yaml")), "which no entry can have"),
    "names a folder": (tar(text=files_named("saved_model")), "which no entry can have"),
    "names what is below a file": (tar(text=files_named("model.yaml/x")), "no entry can have"),
    "names nothing": (tar(text=files_named("")), "no entry can have"),
    "names a path of two spellings": (tar(text=files_named("a//b")), "no entry can have"),
    "names a long part": (tar(text=files_named("a" * 256)), "no entry can have"),
    "names a control character": (tar(text=files_named("a\rb")), "is not allowed"),
    "another format": (tar(text=yaml_with("format: 1", "format: 2")), "update tfrunner"),
    "no yaml": (tar(text=b"a: ["), "model.yaml cannot be read"),
    "binary": (tar(text=b"\xff\0\xfe"), "model.yaml cannot be read"),
    "aliases": (tar(text=yaml_with("metadata: {}", "metadata: {a: &a [], b: *a}")), "has aliases"),
    "nesting": (
        tar(text=yaml_with("metadata: {}", "metadata: {a: " + "[" * 999 + "]" * 999 + "}")),
        "nests deeper than 100",
    ),
    "object of Python": (
        tar(text=yaml_with("metadata: {}", "metadata: !!python/object/apply:os.system [ls]")),
        "model.yaml cannot be read: .*python/object",
    ),
    "no time": (tar(text=yaml_of(creation_time="yesterday")), "model.yaml cannot be read"),
    "no time zone": (tar(text=yaml_of(creation_time="2026-01-01T00:00:00")), "no time zone"),
    "future": (
        tar(text=yaml_of(creation_time="2999-01-01T00:00:00+00:00")),
        "saved in the future: 2999",
    ),
    "name that leads out": (tar(text=yaml_of(name="..")), "are no name and version"),
    "version with a slash": (tar(text=yaml_of(version="a/b")), "are no name and version"),
    "latest": (tar(text=yaml_of(version="latest")), "are no name and version"),
    "method with two names": (
        tar(text=yaml_of(methods={"other": info_of().methods["__call__"]})),
        "'other' calls itself '__call__'",
    ),
}


@pytest.mark.parametrize("case", TARS.values(), ids=TARS.keys())
@pytest.mark.parametrize("pack", [bytes, gz, lzma.compress], ids=["tar", "gz", "xz"])
def test_a_hostile_tar_is_refused(
    store: Store, tmp_path: Path, case: tuple[bytes, str], pack: Callable[[bytes], bytes]
) -> None:
    """However it is packed; the message says what is wrong with it."""
    data, message = case
    (tmp_path / "in").mkdir()
    file = tmp_path / "in" / "m.tar"
    file.write_bytes(pack(data))
    refuse(store, file, message)


def test_the_archive_that_the_cases_change_is_a_good_one(store: Store, tmp_path: Path) -> None:
    """Each is refused for its one fault."""
    (tmp_path / "m.tar").write_bytes(
        tar(pax(b"comment", tarfile.XGLTYPE), member("x/", type=tarfile.DIRTYPE))
    )
    assert {*models.import_model(tmp_path / "m.tar").info.files} == {*FILES}
    with zipfile.ZipFile(tmp_path / "m.zip", "w") as archive:
        write_zip(archive)
    assert models.import_model(tmp_path / "m.zip", name="n").info.files == described(FILES)


def write_zip(archive: zipfile.ZipFile, text: bytes | None = None) -> None:
    """Write what a good archive holds."""
    archive.writestr("model.yaml", yaml_of() if text is None else text)
    for name, data in FILES.items():
        archive.writestr(name, data)


def zip_link(archive: zipfile.ZipFile) -> None:
    """Write a symbolic link as Info-ZIP does."""
    link = zipfile.ZipInfo("saved_model/x")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    archive.writestr(link, "/etc/passwd")


def zip_device(archive: zipfile.ZipFile) -> None:
    """Write a member that says it is a device."""
    device = zipfile.ZipInfo("saved_model/x")
    device.external_attr = stat.S_IFBLK << 16
    archive.writestr(device, "")


def zip_twice(archive: zipfile.ZipFile) -> None:
    """Write two members of one name."""
    with pytest.warns(UserWarning, match="Duplicate name"):
        archive.writestr(GRAPH, FILES[GRAPH])


ZIPS: dict[str, tuple[Callable[[zipfile.ZipFile], object], str]] = {
    "parent": (lambda a: a.writestr("../evil", EVIL), "leads out of the archive"),
    "absolute": (lambda a: a.writestr("/tmp/evil", EVIL), "is an absolute path"),
    "backslash": (lambda a: a.writestr("..\\evil", EVIL), "is not allowed"),
    "symbolic link": (zip_link, "'saved_model/x' is a symbolic link"),
    "device": (zip_device, "is a device"),
    "twice": (zip_twice, "is in it twice"),
    "stranger": (lambda a: a.writestr("x", EVIL), "which model.yaml does not name"),
    "bzip2": (lambda a: a.writestr("x", EVIL, zipfile.ZIP_BZIP2), "otherwise than stored"),
    "lzma": (lambda a: a.writestr("x", EVIL, zipfile.ZIP_LZMA), "otherwise than stored"),
}


@pytest.mark.parametrize("case", ZIPS.values(), ids=ZIPS.keys())
def test_a_hostile_zip_is_refused(
    store: Store, tmp_path: Path, case: tuple[Callable[[zipfile.ZipFile], object], str]
) -> None:
    """As a tar is."""
    add, message = case
    (tmp_path / "in").mkdir()
    file = tmp_path / "in" / "m.zip"
    with zipfile.ZipFile(file, "w") as archive:
        write_zip(archive)
        add(archive)
    refuse(store, file, message)


def packed_zip(more: Mapping[str, bytes]) -> bytes:
    """Return a good zip with more members."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        write_zip(archive)
        for name, data in more.items():
            archive.writestr(name, data)
    return packed.getvalue()


def patched(*changes: tuple[int, bytes]) -> bytes:
    """Return a good zip with bytes changed in the last entry of its list of members."""
    data = bytearray(packed_zip({}))
    start = data.rindex(b"PK\1\2")
    for offset, new in changes:
        data[start + offset : start + offset + len(new)] = new
    return bytes(data)


def many_members() -> bytes:
    """Return a zip whose list of members has 5 MB, all of one file."""
    data = bytearray(patched())
    start, end = data.index(b"PK\1\2"), data.index(b"PK\5\6")
    listed = bytes(data[start:end])
    many = listed * (5_000_000 // len(listed))
    number = min(65_535, len(many) // 46)
    tail = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, number, number, len(many), start, 0)
    return bytes(data[:start]) + many + tail


BROKEN_ZIPS: dict[str, tuple[Callable[[], bytes], str]] = {
    "encrypted": (lambda: patched((8, b"\1\0")), "is encrypted"),
    "other name": (lambda: patched((46, b"x")), "damaged or cut off"),
    "shorter than it is": (lambda: patched((24, struct.pack("<L", 9))), "has 9 bytes, not 2100"),
    "wrong sum": (lambda: patched((16, b"\0\0\0\0")), "damaged or cut off: Bad CRC-32"),
    "name with an end in it": (
        lambda: packed_zip({"odd_name": EVIL}).replace(b"odd_name", b"odd\0name"),
        r"'odd.x00name' is not allowed",
    ),
    "behind the end": (lambda: patched((42, b"\0\0\0\x7f")), "damaged or cut off"),
    "more members than fit": (many_members, "too many members|damaged"),
}


@pytest.mark.parametrize("case", BROKEN_ZIPS.values(), ids=BROKEN_ZIPS.keys())
def test_a_made_up_zip_is_refused(
    store: Store, tmp_path: Path, case: tuple[Callable[[], bytes], str]
) -> None:
    """Its list of members says otherwise than its members."""
    make, message = case
    (tmp_path / "in").mkdir()
    file = tmp_path / "in" / "m.zip"
    file.write_bytes(make())
    refuse(store, file, message)


@pytest.mark.parametrize("form", ["tar.gz", "tar.xz", "tar", "zip"])
@pytest.mark.parametrize("part", [0.02, 0.3, 0.6, 0.9, 0.999])
def test_a_truncated_archive_is_refused(
    store: Store, tmp_path: Path, form: str, part: float
) -> None:
    """Wherever it was cut."""
    folder = tmp_path / "in"
    folder.mkdir()
    put_files(store, "m:v1", {GRAPH: os.urandom(50_000)})
    file = models.export_model("m", folder, form)
    store.delete("m")
    data = file.read_bytes().rstrip(b"\0")  # a tar ends in blocks that say nothing
    file.write_bytes(data[: int(len(data) * part)])
    refuse(store, file, "damaged or cut off|it is no")


@pytest.mark.parametrize("form", ["tar.gz", "tar.xz", "zip"])
@pytest.mark.parametrize("is_declared", [True, False], ids=["declared", "not declared"])
def test_a_bomb_is_stopped_while_it_is_unpacked(
    store: Store, tmp_path: Path, form: str, is_declared: bool
) -> None:
    """At 1000 times its size, or at the first byte that `model.yaml` does not name."""
    file = tmp_path / "bomb"
    text = yaml_of(BOMB if is_declared else {"saved_model/zeros": b"0"})
    if form == "zip":
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
            archive.writestr("model.yaml", text)
            archive.writestr("saved_model/zeros", BOMB["saved_model/zeros"])
    else:
        packed = blocks([member("model.yaml", text), member("saved_model/zeros", bytes(ZEROS))])
        file.write_bytes(gz(packed) if form == "tar.gz" else lzma.compress(packed, preset=1))
    limit = max(10_000_000, 1000 * file.stat().st_size)
    assert limit < ZEROS
    written = [0]
    with pytest.raises(InvalidInput, match="1000 times its size" if is_declared else "not 1"):
        models.import_model(file, on_progress=lambda done, total: written.append(done))
    assert max(written) <= (limit if is_declared else 0)
    assert left_in(store) == []
    if is_declared:
        trusted = models.import_model(file, trust=True)
        assert trusted.size == ZEROS


def test_the_members_of_a_zip_are_one_bomb_together(store: Store, tmp_path: Path) -> None:
    """Each of them alone would pass."""
    file = tmp_path / "bomb.zip"
    halves = {f"saved_model/{name}": bytes(ZEROS) for name in "ab"}
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for name, data in {"model.yaml": yaml_of(halves), **halves}.items():
            archive.writestr(name, data)
    assert ZEROS < 1000 * file.stat().st_size < 2 * ZEROS
    with pytest.raises(InvalidInput, match="1000 times its size"):
        models.import_model(file)


def test_a_bomb_before_the_description_is_stopped_too(store: Store, tmp_path: Path) -> None:
    """What is skipped has been unpacked as well."""
    file = tmp_path / "bomb.tgz"
    file.write_bytes(gz(blocks([member("x", bytes(ZEROS)), member("model.yaml", yaml_of())])))
    with pytest.raises(InvalidInput, match="1000 times its size"):
        models.import_model(file)


def test_an_xz_archive_cannot_ask_for_memory(store: Store, tmp_path: Path) -> None:
    """Its header says how much unpacking takes; 1 GB is too much."""
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 0, "dict_size": 2**29}]
    file = tmp_path / "m.txz"
    packer = lzma.LZMACompressor(lzma.FORMAT_XZ, filters=filters)
    file.write_bytes(packer.compress(tar()) + packer.flush())
    with pytest.raises(InvalidInput, match="Memory usage limit"):
        models.import_model(file)


def test_what_cannot_fit_is_refused_at_once(store: Store, tmp_path: Path) -> None:
    """Before anything is written."""
    files = described(FILES, **{GRAPH: FileInfo(2**60, "0" * 64)})
    (tmp_path / "m.tar").write_bytes(tar(text=dump_info(info_of(files=files)).encode()))
    with pytest.raises(NotWritten, match=r"bytes left, and the model needs 11529215"):
        models.import_model(tmp_path / "m.tar")
    assert left_in(store) == []


def link_file(folder: Path) -> None:
    """Put a link in the place of a file."""
    (folder / GRAPH).unlink()
    (folder / GRAPH).symlink_to("/etc/hostname")


def link_folder(folder: Path) -> None:
    """Put a link to the same files in the place of a folder."""
    real = folder.parent / "moved"
    (folder / "saved_model").rename(real)
    (folder / "saved_model").symlink_to(real)


FOLDERS: dict[str, tuple[Callable[[Path], object], str]] = {
    "link": (link_file, rf"'{GRAPH}' is a symbolic link"),
    "link to a folder": (link_folder, "'saved_model' is a symbolic link"),
    "linked model.yaml": (
        lambda f: ((f / "model.yaml").rename(f / "x"), (f / "model.yaml").symlink_to(f / "x")),
        "'model.yaml' is a symbolic link",
    ),
    "pipe": (lambda f: os.mkfifo(f / "pipe"), "'pipe' is a named pipe"),
    "stranger": (lambda f: (f / ".DS_Store").write_text(""), r"'\.DS_Store' is in it, which"),
    "changed": (lambda f: (f / GRAPH).write_bytes(b"A graph"), "its hash differs"),
    "missing": (lambda f: (f / GRAPH).unlink(), "is not in it"),
}


@pytest.mark.parametrize("case", FOLDERS.values(), ids=FOLDERS.keys())
def test_a_changed_folder_is_refused(
    store: Store, tmp_path: Path, case: tuple[Callable[[Path], object], str]
) -> None:
    """Links are never followed, pipes never waited for."""
    act, message = case
    (tmp_path / "in").mkdir()
    put_files(store, "m:v1", FILES)
    folder = models.export_model("m", tmp_path / "in", "folder")
    store.delete("m")
    act(folder)
    refuse(store, folder, message)
