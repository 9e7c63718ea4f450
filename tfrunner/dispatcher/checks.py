"""What a dispatcher refuses to start with: settings that make no sense, by key and reason."""

from __future__ import annotations

from math import isfinite

from tfrunner.config import DispatcherConfig, ServedModel
from tfrunner.errors import ConfigError


def check(config: DispatcherConfig) -> None:
    """Refuse a configuration that makes no sense.

    Raises:
        ConfigError: It does not; the message names the key and what was expected.
    """
    tags = [served.tag for served in config.models]
    for tag in tags:
        if tags.count(tag) > 1:
            raise ConfigError(f"models: {tag!r} is served twice; expected each tag once.")
    for served in config.models:
        _check_model(served)
    if config.hold < 0:
        raise ConfigError(f"hold is {config.hold}; expected a number of requests, 0 or more.")
    if not (isfinite(config.grace) and config.grace >= 0):
        raise ConfigError(f"grace is {config.grace}; expected seconds, 0 or more.")


def _check_model(served: ServedModel) -> None:
    least = {
        "max_batch_size": (served.max_batch_size, "rows"),
        "queue_requests": (served.queue_requests, "requests"),
        "queue_bytes": (served.queue_bytes, "bytes"),
        **{f"method_sizes.{name}": (n, "rows") for name, n in served.method_sizes.items()},
    }
    for key, (value, unit) in least.items():
        if value < 1:
            raise ConfigError(
                f"{key} of model {served.tag} is {value}; expected at least 1 ({unit})."
            )
