"""From the words and options of `tfrunner serve` to what is served, how, and where.

Starts nothing and writes nothing. Services are described by processes of their own.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tfrunner import config
from tfrunner.api.cors import check_origin
from tfrunner.api.key_file import read_keys
from tfrunner.api.tls import make_context
from tfrunner.cli.observing import make_observation
from tfrunner.cli.places import check_places
from tfrunner.cli.targets import Targets, echo_targets, resolve
from tfrunner.cli.wishes import demand, runner_layers, serve_model
from tfrunner.config import DEFAULTS, Bounds, ServerConfig, check_positive
from tfrunner.entrance import Entrance, Tls
from tfrunner.errors import ConfigError
from tfrunner.settings import Settings
from tfrunner.specs import ModelSpec
from tfrunner.store import Store
from tfrunner.supervisor.listener import fix_port
from tfrunner.supervisor.machine import count_cores, find_gpus, nvidia_smi
from tfrunner.supervisor.placement import Demand, Placement, place

LIMITS = ("max_batch_size", "queue_requests", "queue_bytes")
"""Options that hold for each model."""

BOUNDS = Bounds.__struct_fields__
"""Options that hold for each api process."""

PLAIN = (
    *("host", "port", "workers", "workers_per_gpu", "api_workers", "timeout", "grace", "record"),
    *("recycle_requests", "recycle_memory", "spares", "strict", "hold", "log_level"),
)
"""Options that the server's configuration has under the same name."""


class Arrangement(NamedTuple):
    """What a server would be.

    Args:
        targets: The models and Services.
        server: How they are served.
        demands: What the models' workers need.
        placements: Where each worker runs.
    """

    targets: Targets
    server: ServerConfig
    demands: tuple[Demand, ...]
    placements: tuple[Placement, ...]

    @property
    def specs(self) -> list[ModelSpec]:
        """The models as callers see them."""
        return [each.spec for each in self.targets.models]


def arrange(
    words: Sequence[str],
    options: Mapping[str, Any],
    settings: Settings,
    *,
    sources: Mapping[str, str] = {},
) -> Arrangement:
    """Return what is meant.

    Args:
        words: Models and Services.
        options: Those of the command, by name.
        settings: The configuration file.
        sources: Where the options come from, for messages; see `Reading.sources_of`.

    Raises:
        ConfigError: An option is out of range, or two of them do not go together, or the server
            could not have its address, a file or a folder.
        NotFound: There is no such model or Service.
    """
    check_numbers(options, sources)
    entrance = make_entrance(options)
    if options["direct"] and entrance.keys_file:
        raise ConfigError(
            "--direct lets everybody on this machine call without a key; leave it or --api-keys "
            "out. (Python clients of your own user need no --direct.)"
        )
    found = echo_targets(words) if options["echo"] else resolve(words, Store(config.home()))
    if not found.models and not found.services:
        raise ConfigError("say what to serve: `tfrunner serve MODEL`; `tfrunner models list`.")
    limits = {**{name: options[name] for name in LIMITS}, "xla": options["xla"]}
    server = ServerConfig(
        models=tuple(
            serve_model(target, settings, limits=limits, batching=options["batching"])
            for target in found.models
        ),
        services=found.services,
        runners=runner_layers(found.models, settings),
        model_options={
            target.spec.tag: tuple(layers)
            for target in found.models
            if (layers := settings.of_model(target.spec.tag))
        },
        bounds=Bounds(**{name: options[name] for name in BOUNDS}),
        entrance=entrance,
        observation=make_observation(options, [each.spec.tag for each in found.models]),
        direct=tuple(fix_port(address) for address in options["direct"]),
        **{name: options[name] for name in PLAIN},
    )
    check_places(server, config.run_root())
    demands = tuple(demand(target, settings) for target in found.models)
    return Arrangement(found, server, demands, place_workers(server, demands))


def check_numbers(options: Mapping[str, Any], sources: Mapping[str, str]) -> None:
    """Check that numbers are in range.

    Args:
        options: Those of the command, by name.
        sources: Where they come from.

    Raises:
        ConfigError: One is not; the message names it as it was given.
    """
    least: dict[str, float] = {name: 1 for name in (*LIMITS, "api_workers")}
    least |= {name: 0.001 if isinstance(getattr(DEFAULTS, name), float) else 1 for name in BOUNDS}
    least |= {"timeout": 0.001, "recycle_requests": 0, "recycle_memory": 0, "spares": 0, "grace": 0}
    for name, smallest in least.items():
        given = _as_given(name, sources.get(name, ""))
        check_positive(given, options[name], least=smallest)
        if math.isinf(options[name]):
            raise ConfigError(f"{given} is infinite; expected a number of seconds, such as 86400.")


def _as_given(name: str, source: str) -> str:
    """Return what people call an option: the flag, the variable, or the key of a file."""
    kind, _, place = source.partition(" ")
    if kind == "environment":
        return f"${place}"
    return f"{place}: [serve]: {name}" if kind == "file" else f"--{name.replace('_', '-')}"


def make_entrance(options: Mapping[str, Any]) -> Entrance:
    """Return what every request has to pass; its files are read once, to find what is wrong.

    Raises:
        ConfigError: Something is.
    """
    tls = None
    if options["ssl_certfile"]:
        tls = Tls(
            options["ssl_certfile"],
            keyfile=options["ssl_keyfile"],
            password_file=options["ssl_password_file"],
            ca_certs=options["ssl_ca_certs"],
        )
        make_context(tls)
    else:
        for name in ("ssl_keyfile", "ssl_password_file", "ssl_ca_certs"):
            if options[name]:
                raise ConfigError(f"--{name.replace('_', '-')} needs --ssl-certfile too.")
    if options["access_log_file"] and options["access_log"] == "off":
        raise ConfigError("--access-log-file needs --access-log text or json too.")
    if options["api_keys"] and not read_keys(Path(options["api_keys"])):
        raise ConfigError(
            f"{options['api_keys']} holds no API keys: `tfrunner keys create NAME` makes one."
        )
    return Entrance(
        tls=tls,
        keys_file=options["api_keys"],
        processes=options["api_workers"],
        metrics_access=options["metrics_access"],
        cors_origins=tuple(dict.fromkeys(map(check_origin, options["cors_origin"]))),
        access_log=options["access_log"],
        access_log_file=options["access_log_file"],
    )


def place_workers(server: ServerConfig, demands: Sequence[Demand]) -> tuple[Placement, ...]:
    """Return where the workers run on this machine."""
    uses_gpu = any(each.uses_gpu for each in demands)
    return tuple(
        place(
            demands,
            workers=server.workers,
            workers_per_gpu=server.workers_per_gpu,
            gpus=find_gpus(config.visible_gpus(), nvidia_smi) if uses_gpu else (),
            cores=count_cores(),
        )
    )
