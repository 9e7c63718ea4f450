"""The runner: a caller's handle of one model, the same locally and against a server."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from tfrunner import config
from tfrunner.casting import cast
from tfrunner.connections import (
    Connection,
    GatewayConnection,
    LocalConnection,
    ServerConnection,
    refuse_in_event_loop,
)
from tfrunner.entry import Model
from tfrunner.errors import ConfigError, StateError, did_you_mean
from tfrunner.framework import import_tensorflow
from tfrunner.rundir import find_server
from tfrunner.specs import MethodSpec, ModelSpec
from tfrunner.tags import Tag
from tfrunner.transport import check_address

if TYPE_CHECKING:
    from tfrunner.gateway import Gateway

log = logging.getLogger(__name__)


class RunnerMethod:
    """One method of a runner, `runner.<method>`."""

    def __init__(self, runner: Runner, spec: MethodSpec) -> None:
        self._runner = runner
        self.spec = spec

    def run(self, *args: Any, timeout: float | None = None, **kwargs: Any) -> Any:
        """Return the method's outputs as NumPy arrays, nested as the model nests them.

        Callable from any thread, but not in a running event loop.

        Args:
            args: Inputs by position: arrays, numbers, nested lists, tensors.
            timeout: Seconds; 60 by default. A model in this process is not stopped by it.
            kwargs: Inputs by name.

        Raises:
            InvalidInput: The inputs do not fit the method's specification.
            StateError: The runner was not initialized, or an event loop runs here.
            ModelError: The model's own code raised.
            DeadlineExceeded: No answer came in time.
        """
        refuse_in_event_loop("runner")
        connection = self._runner._connected()
        return connection.run(self.spec, cast(self.spec, args, kwargs), _seconds(timeout))

    async def async_run(self, *args: Any, timeout: float | None = None, **kwargs: Any) -> Any:
        """Return the method's outputs; like `run`, for use in an event loop."""
        connection = self._runner._connected()
        return await connection.async_run(
            self.spec, cast(self.spec, args, kwargs), _seconds(timeout)
        )

    def __repr__(self) -> str:
        return f"<RunnerMethod {self._runner.tag} {self.spec.name}>"


class Runner:
    """Calls the methods of one model: `runner.run(x)`, `runner.<method>.async_run(x)`.

    It is made with `model.to_runner()` and given to a Service, which connects it. Outside a
    Service: `init_client()` for a running server, `init_local()` for this process.

    Args:
        model: A saved model, or the specification of one that a server has.
        name: The runner's name; the model's name by default.
    """

    def __init__(self, model: Model | ModelSpec, *, name: str | None = None) -> None:
        self.model = model if isinstance(model, Model) else None
        self.spec = model.spec if isinstance(model, Model) else model
        self.name = Tag(name).name if name is not None else self.spec.name
        self._methods = {key: RunnerMethod(self, spec) for key, spec in self.spec.methods.items()}
        self._connection: Connection | None = None

    @property
    def tag(self) -> str:
        """The model's tag."""
        return self.spec.tag

    @property
    def methods(self) -> tuple[str, ...]:
        """Names of the model's methods."""
        return tuple(self._methods)

    @property
    def is_initialized(self) -> bool:
        """Whether it can be called."""
        return self._connection is not None

    def run(self, *args: Any, timeout: float | None = None, **kwargs: Any) -> Any:
        """Call the model's `__call__`, or its only method. See `RunnerMethod.run`."""
        return self._default().run(*args, timeout=timeout, **kwargs)

    async def async_run(self, *args: Any, timeout: float | None = None, **kwargs: Any) -> Any:
        """Call the model's `__call__`, or its only method. See `RunnerMethod.async_run`."""
        return await self._default().async_run(*args, timeout=timeout, **kwargs)

    def method(self, name: str) -> RunnerMethod:
        """Return the method of that name, also where `runner.<name>` means something else.

        Raises:
            AttributeError: There is none; the message lists what there is.
        """
        if name not in self._methods:
            near = did_you_mean(name, self._methods)
            raise AttributeError(f"the runner of {self.tag} has no method {name!r}.{near}")
        return self._methods[name]

    def __getattr__(self, name: str) -> RunnerMethod:
        if name.startswith("_") and name not in self.__dict__.get("_methods", ()):
            raise AttributeError(f"'Runner' object has no attribute {name!r}")
        return self.method(name)

    def init_local(self, quiet: bool = False) -> None:
        """Load the model into this process; for tests and notebooks, not inside a Service.

        Imports TensorFlow.

        Args:
            quiet: Do not warn that nothing is batched this way.

        Raises:
            StateError: The runner is initialized already, or has no saved model.
            CorruptModel: The model cannot be loaded.
        """
        self._check_free()
        if self.model is None:
            raise StateError(
                f"The runner of {self.tag} was made without a saved model: use init_client()."
            )
        if not quiet:
            log.warning(
                "runner %s runs its model in this process: no batching, one caller at a time. "
                "Serve it with `tfrunner serve %s` (init_local(quiet=True) says nothing).",
                self.name,
                self.tag,
            )
        import_tensorflow()
        from tfrunner_workers.hosted import describe
        from tfrunner_workers.savedmodel import load

        methods = load(self.model.path).methods
        self._connection = LocalConnection(dict(methods), describe=describe)

    def init_client(
        self, address: str | None = None, *, timeout: float = 10.0, retries: bool = True
    ) -> None:
        """Connect to a running server.

        A server that was found, and starts again elsewhere, is found again.

        Args:
            address: The dispatcher's frontend, ipc or tcp on loopback; by default
                $TFRUNNER_ADDRESS, else the one server that runs here.
            timeout: Seconds to wait for the server.
            retries: Whether calls are made again, within their timeout, while the server is
                full or gone and where that is safe: see `Client`.

        Raises:
            StateError: The runner is initialized already.
            NotFound: No server was found, or it does not serve this model.
            Unavailable: It does not answer.
        """
        from tfrunner.background import BackgroundGateway

        self._check_free()
        find = None if address or config.server_address() is not None else frontend_address
        background = BackgroundGateway(frontend_address(address), name="runner", find=find)
        background.start(timeout)
        try:
            served = background.gateway.find(self.spec.name, self.spec.version)
        except BaseException:
            background.close()
            raise
        self._connection = ServerConnection(background, served, retries=retries)

    def attach(self, gateway: Gateway) -> None:
        """Use the gateway of this api process; called in its event loop.

        Raises:
            StateError: The runner is initialized already.
            NotFound: The server does not serve this model.
        """
        self._check_free()
        served = gateway.find(self.spec.name, self.spec.version)
        self._connection = GatewayConnection(gateway, served)

    def destroy(self) -> None:
        """Let go of the model or server; the runner may be initialized again."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def __enter__(self) -> Runner:
        return self

    def __exit__(self, *exc: object) -> None:
        self.destroy()

    def __repr__(self) -> str:
        kind = type(self._connection).__name__ if self._connection else "not initialized"
        return f"<Runner {self.name} {self.tag} [{kind} | {', '.join(self._methods)}]>"

    def _check_free(self) -> None:
        if self._connection is not None:
            raise StateError(
                f"The runner of {self.tag} is initialized already; call destroy() first."
            )

    def _connected(self) -> Connection:
        if self._connection is None:
            raise StateError(
                f"The runner of {self.tag} is not initialized. Give it to a Service "
                "(Service(name, runners=[runner])), or call init_client() to reach a running "
                "server, or init_local() to load the model here."
            )
        return self._connection

    def _default(self) -> RunnerMethod:
        name = self.spec.default_method()
        if name is None:
            raise AttributeError(
                f"{self.tag} has several methods and no __call__: say which, as runner.<method>."
                f"run(...).{did_you_mean('', self._methods)}"
            )
        return self._methods[name]


def frontend_address(address: str | None = None) -> str:
    """Return where to connect: what is given, else $TFRUNNER_ADDRESS, else the server here.

    Raises:
        ConfigError: The address is neither ipc nor tcp on loopback.
        NotFound: None is given, and not exactly one server runs here.
    """
    chosen = address or config.server_address()
    if chosen is None:
        return find_server(config.run_root()).frontend[0]
    if chosen.startswith(("http://", "https://")):
        raise ConfigError(
            f"a runner speaks to the dispatcher, not to HTTP ({chosen}): give ipc://<path> or "
            "tcp://127.0.0.1:<port>, or use tfrunner.Client."
        )
    return check_address(chosen)


def _seconds(timeout: float | None) -> float:
    if timeout is None:
        return config.DEFAULTS.timeout
    config.check_positive("timeout", timeout, least=0.001)
    return float(timeout)
