"""tfrunner with nothing set against other Python model servers: `python -m benchmarks.peers`."""
