"""Which processes a server has, and what each is started with. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import msgspec

from tfrunner.config import (
    ApiConfig,
    DispatcherConfig,
    NewRole,
    ServedModel,
    ServerConfig,
    SpareConfig,
    WorkerConfig,
    home,
)
from tfrunner.supervisor.children import Command
from tfrunner.supervisor.placement import THREAD_VARIABLES, Placement
from tfrunner.supervisor.slots import API, DISPATCHER, SPARE, WORKER, Slot

TENSORFLOW = "tensorflow"


class Addresses(msgspec.Struct, frozen=True):
    """Where the processes of one server find each other.

    Args:
        frontend: Where gateways connect; the first is for our own api processes.
        backend: Where workers and the supervisor connect.
        listener: Descriptor of the listening HTTP socket.
        local: Descriptor of the socket at which the supervisor asks api processes; -1: there
            is none, as it asks like everybody.
        parent: Pid of the supervisor.
        run_directory: Where the sockets' files are; "" where they are nowhere.
    """

    frontend: tuple[str, ...]
    backend: str
    listener: int
    parent: int
    run_directory: str = ""
    local: int = -1


class Crew:
    """The slots of a server, and the command for each.

    Args:
        config: What is served.
        placements: Where each worker runs.
    """

    def __init__(self, config: ServerConfig, placements: Sequence[Placement]) -> None:
        self.config = config
        self.slots = [Slot(DISPATCHER, DISPATCHER)]
        self.slots += [Slot(API, f"api-{number}") for number in range(config.api_workers)]
        self._apis = config.api_workers  # ever
        self.placements: dict[str, Placement] = {}
        counts: Counter[str] = Counter()
        for placement in placements:
            name = placement.model.partition(":")[0]  # versions of a name are counted together
            hosts = self._model(placement.model).kind
            slot = Slot(WORKER, f"worker-{name}-{counts[name]}", model=placement.model, hosts=hosts)
            counts[name] += 1
            self.slots.append(slot)
            self.placements[slot.name] = placement
        if placements:
            kinds = [slot.hosts for slot in self.slots if slot.kind == WORKER]
            hosts = TENSORFLOW if TENSORFLOW in kinds else kinds[0]
            self.slots += [
                Slot(SPARE, f"spare-{number}", hosts=hosts) for number in range(config.spares)
            ]

    def renew(self, config: ServerConfig) -> tuple[str, ...]:
        """Take a changed configuration of the same models; return the slots of new api processes.

        Their names are new, as their processes run beside those that they replace.
        """
        self.config = config
        first, self._apis = self._apis, self._apis + config.api_workers
        return tuple(f"api-{number}" for number in range(first, self._apis))

    def command(self, slot: Slot, addresses: Addresses) -> Command:
        """Return how the next process of a slot is started."""
        if slot.kind == DISPATCHER:
            return Command("tfrunner.dispatcher", self._dispatcher(addresses), slot.process)
        if slot.kind == API:
            config = self._api(slot, addresses)
            inherited = tuple(each for each in (addresses.listener, addresses.local) if each >= 0)
            return Command("tfrunner.api", config, slot.process, descriptors=inherited)
        if slot.kind == SPARE:
            return self._spare(slot, addresses)
        role = self.role(slot, addresses)
        return Command("tfrunner_workers", role.config, slot.process, environment=role.environment)

    def role(self, slot: Slot, addresses: Addresses) -> NewRole:
        """Return what makes a process the next worker of a slot."""
        placement = self.placements[slot.name]
        return NewRole(self._worker(slot, placement, addresses), placement.environment)

    def _dispatcher(self, addresses: Addresses) -> DispatcherConfig:
        return DispatcherConfig(
            frontend=addresses.frontend,
            backend=addresses.backend,
            models=tuple(msgspec.structs.replace(m, runnable=None) for m in self.config.models),
            grace=self.config.grace,
            hold=self.config.hold,
            parent=addresses.parent,
            run_directory=addresses.run_directory,
            log_level=self.config.log_level,
            home=str(home()),
            record=self.config.record,
        )

    def _api(self, slot: Slot, addresses: Addresses) -> ApiConfig:
        return ApiConfig(
            name=slot.process,
            frontend=addresses.frontend[0],
            fd=addresses.listener,
            services=self.config.services,
            timeout=self.config.timeout,
            runners=self.config.runners,
            model_options=self.config.model_options,
            bounds=self.config.bounds,
            entrance=self.config.entrance,
            local_fd=addresses.local,
            grace=self.config.grace,
            parent=addresses.parent,
            observation=self.config.observation,
            log_level=self.config.log_level,
        )

    def _spare(self, slot: Slot, addresses: Addresses) -> Command:
        """Return how a spare is started.

        Math libraries read their number of threads when they are imported, before it is known
        whose place it takes; the workers' numbers differ by one at most.
        """
        threads = next(
            self.placements[each.name].environment
            for each in self.slots
            if each.kind == WORKER and each.hosts == slot.hosts
        )
        config = SpareConfig(
            name=slot.process,
            kind=slot.hosts,
            parent=addresses.parent,
            log_level=self.config.log_level,
        )
        environment = {name: threads[name] for name in THREAD_VARIABLES if name in threads}
        return Command(
            "tfrunner_workers.spare", config, slot.process, environment=environment, is_told=True
        )

    def _worker(self, slot: Slot, placement: Placement, addresses: Addresses) -> WorkerConfig:
        return WorkerConfig(
            name=slot.process,
            backend=addresses.backend,
            model=_with_parameters_file(self._model(placement.model), addresses.run_directory),
            device=placement.device,
            threads=placement.threads,
            recycle_requests=self.config.recycle_requests,
            recycle_memory=self.config.recycle_memory,
            parent=addresses.parent,
            grace=self.config.grace,
            observation=self.config.observation,
            log_level=self.config.log_level,
        )

    def _model(self, tag: str) -> ServedModel:
        return next(model for model in self.config.models if model.tag == tag)


def parameters_file(folder: str, tag: str) -> str:
    """Return where the parameters of a Runnable stand: they may be too long for a command line."""
    return f"{folder}/{tag}.parameters"


def _with_parameters_file(model: ServedModel, folder: str) -> ServedModel:
    if model.runnable is None:
        return model
    source = msgspec.structs.replace(
        model.runnable, parameters=b"", parameters_file=parameters_file(folder, model.tag)
    )
    return msgspec.structs.replace(model, runnable=source)
