"""The table of defaults; docs/configuration.md shows the same one."""

from __future__ import annotations

import msgspec


class Defaults(msgspec.Struct, frozen=True):
    """What holds where nobody says otherwise."""

    host: str = "127.0.0.1"
    port: int = 8000
    api_workers: int = 1
    workers: int = 0  # 0: one per GPU, or one with all cores where there is no GPU
    workers_per_gpu: int = 1
    max_batch_size: int = 64  # rows
    batching: bool = True
    timeout: float = 60.0  # seconds
    queue_requests: int = 10_000  # per model
    queue_bytes: int = 256 * 2**20  # per model
    body_limit: int = 64 * 2**20  # bytes
    max_connections: int = 4096  # per api process
    header_limit: int = 64 * 2**10  # bytes of a request's head
    buffer_limit: int = 512 * 2**20  # bytes per api process, in bodies; as much in answers
    receive_timeout: float = 60.0  # seconds for the next part of a request
    send_timeout: float = 60.0  # seconds for the next part of an answer
    keep_alive: float = 75.0  # seconds; longer than clients' pools usually keep a connection
    grace: float = 30.0  # seconds
    recycle_requests: int = 0  # requests that a worker answers before it is replaced; 0: any
    recycle_memory: int = 0  # resident MB above which a worker is replaced; 0: any
    spares: int = 0  # processes that have imported TensorFlow and wait for a model
    access_log: str = "off"  # off, text or json
    metrics_access: str = "key"  # key, open or off; who may read /metrics where there are keys
    tracing: str = "auto"  # auto, off, otlp or console
    monitor_folder: str = "monitoring"
    monitor_bytes: int = 64 * 2**20  # bytes of a file of a monitor
    monitor_files: int = 5  # files that each process keeps of each monitor
    log_level: str = "info"


DEFAULTS = Defaults()
