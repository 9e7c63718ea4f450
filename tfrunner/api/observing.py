"""What an api process notes of requests, as the configuration asks: metrics, spans, values."""

from __future__ import annotations

import contextlib
import logging
import random
from collections.abc import Iterator

from tfrunner import metrics
from tfrunner.api.app import Application
from tfrunner.api.front import ASGIApp
from tfrunner.api.predict_log import PredictLog
from tfrunner.api.tracing import start_tracing
from tfrunner.config import ApiConfig
from tfrunner.gateway import Gateway
from tfrunner.metric_series import Reporter
from tfrunner.monitoring import MONITORS

logger = logging.getLogger("tfrunner.api")


@contextlib.contextmanager
def observed(config: ApiConfig, gateway: Gateway, app: Application) -> Iterator[ASGIApp]:
    """Have noted what the configuration asks for; give the application that is to be served.

    What is not asked for costs nothing: it is not there.

    Raises:
        ConfigError: Spans are asked for, and OpenTelemetry is not installed.
    """
    gateway.report_metrics(Reporter(metrics.CATALOGUE, config.name))
    MONITORS.configure(config.name, config.observation)
    if config.observation.monitor:
        taken = PredictLog(config.observation.monitor, MONITORS.writer, chance=random.Random())
        app.predict.watch(taken.around_predict)
        gateway.watch(taken.follow)
    tracing = start_tracing(config.observation.tracing, config.name)
    served: ASGIApp = app
    if tracing is not None:
        logger.info("makes OpenTelemetry spans: %r", tracing)
        app.predict.watch(tracing.spans.around_predict)
        gateway.watch(tracing.spans.follow)
        served = tracing.spans.around_app(app)
    try:
        yield served
    finally:
        MONITORS.writer.close()
        if tracing is not None:
            tracing.close()
