"""Names that BentoML 1.0 and 1.1 had, and what there is here instead.

Asking for one raises an AttributeError that says so: `hasattr` is False, nothing stands for what
is not built. `docs/coming-from-bentoml.md` has the same names in a table.
"""

from __future__ import annotations

from typing import NoReturn

PAGE = "docs/coming-from-bentoml.md"

_BY_SERVER = "the server decides where workers run: `--workers-per-gpu`, or `workers` in a table"
_NO_BENTOS = "not built: a Service is a Python file, `tfrunner serve service.py:svc`"
_RUNNABLE = "not built: `get(tag).to_runner()` makes the runner itself"
_FRAMEWORK = {
    "get_runnable": _RUNNABLE,
    "load": "`load_model`",
    "load_runner": "`get(tag).to_runner()`",
}

INSTEAD: dict[str, dict[str, str]] = {
    "tfrunner": {
        "Cookie": "`ctx.response.set_cookie(key, value, ...)`",
        "GrpcServer": "not built: HTTP, and `tfrunner.Client` over ZeroMQ",
        "HTTPServer": "`tfrunner.testing.serve(...)`, or the command `tfrunner serve`",
        "Resource": _BY_SERVER,
        "Strategy": _BY_SERVER,
        "bentos": _NO_BENTOS,
        "build": _NO_BENTOS,
        "containerize": _NO_BENTOS,
        "load": "import the module that has the Service",
        "serve": "`tfrunner.testing.serve(...)`, or the command `tfrunner serve`",
    },
    "tfrunner.tensorflow": _FRAMEWORK,
    "tfrunner.keras": _FRAMEWORK,
    "tfrunner.models": {
        "create": "not built: `tfrunner.tensorflow.save`, or a Runnable for what is no model",
        "pull": "copy the file, and `import_model(path)`",
        "push": "`export_model(tag, path)`, and copy the file",
    },
    "Client": {"from_url": "`tfrunner.Client(address)`"},
    "Model": {
        "export": "`tfrunner.models.export_model(tag, path)`",
        "import_from": "`tfrunner.models.import_model(path)`",
        "to_runnable": _RUNNABLE,
    },
    "ModelInfo": {
        "api_version": "`info.format`",
        "context": "`info.framework`, versions by name",
        "options": "`model.options`, which are not stored",
        "signatures": "`info.methods`, specifications by name",
    },
    "Runner": {
        "runnable_class": "`runner.runnable`",
        "runner_handle_is_ready": "`tfrunner.Client().is_ready(runner.tag)`",
        "runner_methods": "`runner.methods`",
        "scheduled_worker_count": "`tfrunner.Client().status()`",
    },
}
"""By module or class, by name: what to use."""


def missing(owner: str, name: str) -> AttributeError:
    """Return the error for a name that a module or class has not."""
    instead = INSTEAD.get(owner, {}).get(name)
    text = f"{owner} has no attribute {name!r}"
    return AttributeError(text if instead is None else f"{text}: {instead}. See {PAGE}.")


class Renamed:
    """An attribute of a class that there is not: asking for it says what there is instead."""

    def __set_name__(self, owner: type, name: str) -> None:
        self._owner = owner.__name__
        self._name = name

    def __get__(self, instance: object, owner: type | None = None) -> NoReturn:
        raise missing(self._owner, self._name)
