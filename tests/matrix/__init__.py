"""Every kind of model, input and output: run in this process and through a real server."""
