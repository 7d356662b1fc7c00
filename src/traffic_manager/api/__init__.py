"""The HTTP API: the lane for resolves, FastAPI for everything, problems for everything that goes wrong."""
