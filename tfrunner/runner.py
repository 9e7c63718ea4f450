"""The runner: a caller's handle of one model, the same locally and against a server."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from tfrunner import config
from tfrunner.client_address import frontend_address
from tfrunner.connections import (
    Connection,
    GatewayConnection,
    LocalConnection,
    ServerConnection,
)
from tfrunner.entry import Model
from tfrunner.errors import ConfigError, StateError, did_you_mean
from tfrunner.framework import import_tensorflow
from tfrunner.options import (
    Needs,
    RunnerOptions,
    check_methods,
    check_strategy,
    find_timeout,
    read_options,
)
from tfrunner.renamed import INSTEAD, missing
from tfrunner.runnable import Runnable, check_resources, pack_parameters, source_of
from tfrunner.runner_methods import RunnerMethod, check_partial, describe_model
from tfrunner.specs import ModelSpec, encode_spec
from tfrunner.tags import Tag

if TYPE_CHECKING:
    from tfrunner.gateway import Gateway

log = logging.getLogger(__name__)


class Runner:
    """Calls the methods of one model: `runner.run(x)`, `runner.<method>.async_run(x)`.

    It is made with `model.to_runner()`, or of a Runnable, and given to a Service, which
    connects it. Outside a Service: `init_client()` for a running server, `init_local()` for
    this process.

    Args:
        model: A saved model, a Runnable class, or the specification of a model that a server
            has.
        name: The runner's name; by default the model's, or the class's in lower case.
        runnable_init_params: Keyword arguments of the Runnable's constructor: plain data and
            NumPy arrays.
        models: Saved models that the Runnable uses; shown in its metadata. A runner of a saved
            model has that one.
        max_batch_size: Most rows in one batch of the server's.
        max_latency_ms: Milliseconds after which a call fails that gives no timeout of its own.
            It is no wait: a lone request leaves at once.
        method_configs: By method, `max_batch_size` and `max_latency_ms`, which go before the
            two above; those go before the server's configuration.
        embedded: Load the model in each api process of the server: no worker, no batching.
        scheduling_strategy: None: the server decides where workers run.

    Raises:
        ConfigError: An option is unknown or out of range, the Runnable's declarations do not
            fit, or a parameter cannot be handed to a worker.
    """

    def __init__(
        self,
        model: Model | ModelSpec | type[Runnable],
        *,
        name: str | None = None,
        runnable_init_params: Mapping[str, Any] | None = None,
        models: Sequence[Model] | None = None,
        max_batch_size: int | None = None,
        max_latency_ms: float | None = None,
        method_configs: Mapping[str, Any] | None = None,
        embedded: bool = False,
        scheduling_strategy: None = None,
    ) -> None:
        check_strategy(scheduling_strategy)
        self.model = model if isinstance(model, Model) else None
        self.runnable = model if isinstance(model, type) else None
        self.models = tuple(models or ()) if self.model is None else (self.model,)
        self.spec = describe_model(model, name, self.models)
        self.name = Tag(name).name if name else self.spec.name
        self.is_embedded = embedded
        self._parameters = self._check_parameters(runnable_init_params)
        self.options = read_options(
            {"max_batch_size": max_batch_size, "max_latency_ms": max_latency_ms},
            at=f"runner {self.name!r}",
            methods=method_configs,
        )
        check_methods(self.options, self.spec.methods, at=f"runner {self.name!r}")
        partial = check_partial(self.model, self.spec)
        self._methods = {
            key: RunnerMethod(self, spec, partial.get(key, {}))
            for key, spec in self.spec.methods.items()
        }
        self._configure((), config.DEFAULTS.timeout)
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
        if name in INSTEAD["Runner"] and name not in self._methods:
            raise missing("Runner", name)
        return self.method(name)

    def init_local(self, quiet: bool = False) -> None:
        """Load the model into this process; for tests and notebooks, not inside a Service.

        Imports TensorFlow for a saved model; for a Runnable what its own module imports.

        Args:
            quiet: Do not warn that nothing is batched this way.

        Raises:
            StateError: The runner is initialized already, or has no saved model.
            CorruptModel: The model cannot be loaded.
        """
        self._check_free()
        if self.model is None and self.runnable is None:
            raise StateError(
                f"The runner of {self.tag} was made without a saved model: use init_client()."
            )
        if not quiet:
            log.warning(
                "runner %s runs its model in this process: no batching, one caller at a time. "
                "Serve it with `tfrunner serve %s` (init_local(quiet=True) says nothing).",
                self.name,
                self.tag if self.runnable is None else "<module>:<service>",
            )
        self._connection = self._load()

    def _load(self) -> LocalConnection:
        """Return the model, loaded here."""
        from tfrunner_workers.hosted import Hosted, describe

        hosted: Hosted
        if self.runnable is not None:
            from tfrunner_workers.runnables import host

            hosted = host(self.runnable, self._parameters, self.spec, as_sent=True)
        else:
            assert self.model is not None
            import_tensorflow()
            from tfrunner_workers.savedmodel import load

            hosted = load(self.model.path)
        return LocalConnection(dict(hosted.methods), describe=describe)

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
            served = background.find(self.spec.name, self.spec.version)
        except BaseException:
            background.close()
            raise
        self._connection = ServerConnection(background, served, retries=retries)
        self._adopt(served)

    def attach(
        self,
        gateway: Gateway,
        *,
        timeout: float = config.DEFAULTS.timeout,
        options: Sequence[RunnerOptions] = (),
    ) -> None:
        """Use the gateway of this api process; called in its event loop.

        Args:
            gateway: Open. An embedded runner loads its model instead.
            timeout: Seconds of a call for which nobody says anything else.
            options: What the server's configuration asks for this runner, the most important
                first.

        Raises:
            StateError: The runner is initialized already.
            NotFound: The server does not serve this model.
        """
        self._check_free()
        self._configure(options, timeout)
        if self.is_embedded:
            log.warning(
                "runner %s is embedded: each api process loads %s itself, with the memory that "
                "it and its libraries take, and batches nothing",
                self.name,
                self.tag,
            )
            self.init_local(quiet=True)
            return
        served = gateway.find(self.spec.name, self.spec.version)
        self._connection = GatewayConnection(gateway, served)
        self._adopt(served)

    def needs(self) -> Needs:
        """Return what it needs of a server.

        Raises:
            ConfigError: It is a Runnable that workers cannot import.
        """
        needs = Needs(
            runner=self.name,
            tag=self.tag,
            spec=encode_spec(self.spec),
            embedded=self.is_embedded,
            options=self.options,
        )
        if self.runnable is None:
            return needs
        return msgspec.structs.replace(
            needs,
            kind="runnable",
            source=source_of(self.runnable, self._parameters),
            resources=check_resources(self.runnable),
            is_multithreaded=self.runnable.SUPPORTS_CPU_MULTI_THREADING,
        )

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

    def _configure(self, configured: Sequence[RunnerOptions], timeout: float) -> None:
        """Set how long calls may take: what the runner was made with goes first."""
        for name, method in self._methods.items():
            asked = find_timeout((self.options, *configured), name)
            method.timeout = timeout if asked is None else asked

    def _adopt(self, served: ModelSpec) -> None:
        """Call each method as the server serves it: it may have switched batching off."""
        for name, method in self._methods.items():
            method.spec = served.methods.get(name, method.spec)

    def _check_parameters(self, given: Mapping[str, Any] | None) -> bytes:
        if given and self.runnable is None:
            raise ConfigError(
                f"runner {self.name!r} is of a saved model; only a Runnable has a constructor to "
                "give runnable_init_params to."
            )
        return pack_parameters(given or {}, at=f"runner {self.name!r}")

    def _check_free(self) -> None:
        if self._connection is not None:
            raise StateError(
                f"The runner of {self.tag} is initialized already; call destroy() first."
            )

    def connected(self) -> Connection:
        """Return the way to the model.

        Raises:
            StateError: The runner is not initialized.
        """
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
