"""The walls between the rooms: who may import whom, read from the source and seen at run time."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

ROOT = Path(__file__).parent.parent

HALL = (
    *("errors", "config", "defaults", "entrance", "protocol", "specs", "tensors", "values"),
    *("casting", "packing", "caller", "worker_config"),
    *(
        "learned_file",
        "binding",
        "objects",
        "padding",
        "ragged",
        "options",
        "settings",
        "runnable",
        "declarations",
    ),
    *("transport", "rundir", "processes", "liveness", "link", "pending", "served"),
    *("answer", "deliveries", "gateway", "forks", "exceptions", "remarks", "renamed"),
    *("shared_memory", "shared_memory_slots", "row_ranges", "blocks"),
    *("agenda", "background", "driving", "exchange", "promises", "shortcuts", "turns"),
    *("metrics", "metric_declarations", "metric_series", "exposition", "observation", "monitoring"),
    *("monitor_files", "monitor_values", "monitor_writer"),
)
STORE = (
    *("tags", "entry", "store", "models", "examples", "framework", "saving", "keras_models"),
    *("sources", "custom_objects", "lengths", "keras_inputs", "filing", "loaded", "trials"),
    *("hashes", "writing", "tensorflow", "keras", "archives", "unpacking", "members"),
    *("members_tar", "members_zip", "extracting", "importing", "exporting"),
    "bentoml_entry",
)
VISITOR = (
    *("client", "client_address", "client_async", "client_budget", "client_connection"),
    *("client_endpoints", "client_exchanges"),
    *("client_direct", "client_http", "client_models", "client_pools", "attempts"),
    *("runner", "runner_methods", "connections", "deadlines", "testing"),
)
FRONT_DESK = ("service", "service_module", "endpoint", "context", "io", "api")
DISPATCH = ("dispatcher",)
SIMULATOR = ("simulator",)
CARETAKER = ("supervisor",)
DOOR = ("cli", "demo", "demo_model", "__main__")
ENGINE = ("tfrunner_workers",)

ROOMS = {
    "hall": HALL,
    "store": STORE,
    "visitor": VISITOR,
    "front desk": FRONT_DESK,
    "dispatch": DISPATCH,
    "simulator": SIMULATOR,
    "caretaker": CARETAKER,
    "door": DOOR,
    "engine": ENGINE,
}
MAY_IMPORT = {
    "hall": HALL,
    "store": (*HALL, *STORE),
    "visitor": (*HALL, *STORE, *VISITOR),
    "front desk": (*HALL, *STORE, *VISITOR, *FRONT_DESK),
    "dispatch": ("errors", "protocol", "config", "learned_file", *DISPATCH),
    "simulator": (*HALL, *DISPATCH, *SIMULATOR),
    "caretaker": (*HALL, *CARETAKER),
    "door": (*HALL, *STORE, *VISITOR, *FRONT_DESK, *CARETAKER, *SIMULATOR, *DOOR),
    "engine": (*HALL, *STORE, *ENGINE),
}
SHELLS = {"tfrunner.dispatcher.__main__": ("transport", "processes", "rundir")}
"""What the shell of a pure core may import beside."""

INSIDE_FUNCTIONS = {
    "tfrunner.entry": ("runner", "tensorflow"),  # Model.to_runner and Model.load_model
    "tfrunner.runner": ENGINE,  # init_local hosts the model in this very process
    "tfrunner.tensorflow": ENGINE,  # load_model restores as a worker does
    "tfrunner.testing": ("cli",),  # its `python -m` is the command itself
    "tfrunner.cli.targets": ENGINE,  # the echo model
}
"""What may be imported when a function is called, and not before."""

WITH_TENSORFLOW = {
    "tfrunner.writing": (),  # imported by `save` alone, once TensorFlow is there
    "tfrunner.loaded": ENGINE,  # loads as a worker does
    "tfrunner.trials": ENGINE,  # compares as a worker does
}
"""Modules of ours outside the engine room that only work with TensorFlow."""

PRIVATE_TENSORFLOW = 1
"""Files that may use `tensorflow.python...`."""


class Import(msgspec.Struct, frozen=True):
    """One imported name, and whether it is imported with the module."""

    name: str
    is_at_import: bool


def modules() -> dict[str, Path]:
    """Return every module of ours by its dotted name."""
    found = {}
    for source, package in ((ROOT, "tfrunner"), (ROOT / "workers", "tfrunner_workers")):
        for path in sorted((source / package).rglob("*.py")):
            parts = path.relative_to(source).with_suffix("").parts
            found[".".join(parts).removesuffix(".__init__")] = path
    return found


def imports(path: Path) -> Iterator[Import]:
    """Yield what a file imports; what is only for type checkers is left out."""
    yield from _imports(ast.parse(path.read_text()), is_at_import=True)


def _imports(node: ast.AST, *, is_at_import: bool) -> Iterator[Import]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.dump(child.test):
            continue
        if isinstance(child, ast.Import):
            for alias in child.names:
                yield Import(alias.name, is_at_import)
        elif isinstance(child, ast.ImportFrom):
            assert child.level == 0, "imports are absolute"
            for alias in child.names:
                yield Import(f"{child.module}.{alias.name}", is_at_import)
        else:
            is_function = isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
            yield from _imports(child, is_at_import=is_at_import and not is_function)


def place(name: str) -> str | None:
    """Return which of our modules or packages an imported name belongs to, as rooms list it."""
    parts = name.split(".")
    if parts[0] == "tfrunner_workers":
        return parts[0]
    return parts[1] if parts[0] == "tfrunner" and len(parts) > 1 else None


def room(module: str) -> str:
    """Return the room of a module of ours."""
    return next(name for name, places in ROOMS.items() if place(module) in places)


MODULES = modules()
IN_ROOMS = sorted(name for name in MODULES if name != "tfrunner")


@pytest.mark.parametrize("module", IN_ROOMS)
def test_every_module_has_a_room_and_stays_in_it(module):
    """A new module is put into the table; what a room may not import stays outside."""
    assert [place(module) in places for places in ROOMS.values()].count(True) == 1
    allowed = {*MAY_IMPORT[room(module)], *SHELLS.get(module, ())}
    for each in imports(MODULES[module]):
        where = place(each.name)
        if where is None or where in allowed:
            continue
        later = {*INSIDE_FUNCTIONS.get(module, ()), *WITH_TENSORFLOW.get(module, ())}
        assert where in later, f"{module} ({room(module)}) imports {each.name}"
        assert not each.is_at_import or module in WITH_TENSORFLOW, f"{module}: {each.name}"


def test_the_tables_name_no_module_that_is_gone():
    """An exception that nobody needs is a hole in the wall."""
    places = {place(name) for name in IN_ROOMS}
    assert [name for room in ROOMS.values() for name in room if name not in places] == []
    for module, extra in {**SHELLS, **INSIDE_FUNCTIONS, **WITH_TENSORFLOW}.items():
        used = {place(each.name) for each in imports(MODULES[module])}
        assert set(extra) <= used, f"{module} does not need {set(extra) - used}"


def test_imports_go_round_in_no_circle():
    """Each module can be read after those that it imports."""
    graph = {
        name: {each.name for each in imports(path) if each.is_at_import}
        for name, path in MODULES.items()
    }
    known = {
        name: {next((m for m in (i, i.rpartition(".")[0]) if m in MODULES), "") for i in names}
        - {"", "tfrunner", name}
        for name, names in graph.items()
    }
    while free := [name for name, needs in known.items() if not needs]:
        known = {n: needs - set(free) for n, needs in known.items() if n not in free}
    assert known == {}


def test_one_file_imports_zmq():
    """The rules for ZeroMQ sockets stand in one place."""
    assert users("zmq") == ["tfrunner.transport"]


def test_serving_code_names_tensorflow_only_inside_functions():
    """At import time the engine room alone may import it."""
    found = [
        name
        for name, path in MODULES.items()
        for each in imports(path)
        if each.is_at_import and each.name.split(".")[0] in ("tensorflow", "keras")
    ]
    assert [name for name in found if not name.startswith("tfrunner_workers")] == []


def test_private_modules_of_tensorflow_stand_in_one_file():
    """They change without notice: there is one place to mend."""
    private = [
        name
        for name, path in MODULES.items()
        if any(each.name.startswith("tensorflow.python") for each in imports(path))
    ]
    assert len(private) <= PRIVATE_TENSORFLOW, private


def users(package: str) -> list[str]:
    """Return the modules that import a package, at import time or later."""
    return [
        name
        for name, path in MODULES.items()
        if any(each.name.split(".")[0] == package for each in imports(path))
    ]


def loaded_by(*names: str, watch: tuple[str, ...]) -> dict[str, list[str]]:
    """Import modules one after the other in a fresh interpreter; say who brought what along."""
    code = (
        "import importlib, json, sys\n"
        f"watch, found = {watch!r}, {{}}\n"
        f"for name in {names!r}:\n"
        "    importlib.import_module(name)\n"
        "    new = [each for each in watch if each in sys.modules]\n"
        "    watch = [each for each in watch if each not in new]\n"
        "    if new: found[name] = new\n"
        "print(json.dumps(found))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, check=True, timeout=120
    )
    found: dict[str, list[str]] = json.loads(done.stdout)
    return found


def test_no_serving_module_pulls_in_tensorflow():
    """An api process has 85 MB, not 700."""
    names = [name for name in MODULES if name.startswith("tfrunner.")]
    serving = [name for name in names if name not in WITH_TENSORFLOW]
    assert loaded_by("tfrunner", *serving, watch=("tensorflow", "keras")) == {}


def test_the_watch_at_run_time_sees_what_is_imported():
    """The test above would fail if a module did import it."""
    assert loaded_by("tfrunner.tensors", watch=("numpy",)) == {"tfrunner.tensors": ["numpy"]}


def test_the_dispatchers_core_knows_neither_numpy_nor_zmq():
    """It decides; it opens no tensor and no socket."""
    assert loaded_by("tfrunner.dispatcher.core", watch=("numpy", "zmq", "asyncio")) == {}
    assert loaded_by("tfrunner.dispatcher.__main__", watch=("numpy",)) == {}


def test_tfrunner_itself_loads_its_names_on_first_use():
    """`import tfrunner` costs next to nothing, and every public name is there."""
    assert loaded_by("tfrunner", watch=("numpy", "zmq", "httpx", "msgspec")) == {}
    import tfrunner

    assert all(getattr(tfrunner, name) is not None for name in tfrunner.__all__)
    assert set(tfrunner.__all__) <= set(dir(tfrunner))
    with pytest.raises(AttributeError, match="no_such"):
        _ = tfrunner.no_such
