"""The errors under the names that BentoML has for them. See `tfrunner.errors`.

Only such as mean the same: what was caught by its name there is caught by it here.
"""

from __future__ import annotations

from tfrunner.errors import ConfigError as BentoMLConfigException
from tfrunner.errors import InvalidInput as BadInput
from tfrunner.errors import InvalidInput as InvalidArgument
from tfrunner.errors import NotFound as NotFound
from tfrunner.errors import StateError as StateException
from tfrunner.errors import TFRunnerError as BentoMLException
from tfrunner.errors import Unavailable as ServiceUnavailable

__all__ = [
    "BadInput",
    "BentoMLConfigException",
    "BentoMLException",
    "InvalidArgument",
    "NotFound",
    "ServiceUnavailable",
    "StateException",
]
