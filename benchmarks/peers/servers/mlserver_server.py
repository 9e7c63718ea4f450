"""Start MLServer on a folder with its two settings files. Runs in MLServer's environment."""

from __future__ import annotations

import json
import os
import socket
import sys
from pathlib import Path

import model

SETTINGS = model.read_settings()


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    server = {
        "host": "127.0.0.1",
        "http_port": SETTINGS.port,
        "grpc_port": free_port(),
        "metrics_port": free_port(),
        "parallel_workers": SETTINGS.workers,
        "debug": False,
        "environments_dir": str(folder / "environments"),
    }
    served = {
        "name": "model",
        "implementation": "mlserver_model.Inference",
        "max_batch_size": SETTINGS.rows if SETTINGS.rows > 1 else 0,
        "max_batch_time": SETTINGS.wait / 1000 if SETTINGS.rows > 1 else 0,
    }
    (folder / "settings.json").write_text(json.dumps(server))
    (folder / "model-settings.json").write_text(json.dumps(served))
    os.environ["PYTHONPATH"] = str(Path(__file__).parent)
    command = str(Path(sys.executable).parent / "mlserver")
    os.execv(command, [command, "start", str(folder)])
