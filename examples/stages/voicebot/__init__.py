"""A voice service as its owner wrote it: FastAPI, a WebSocket for each call, and nothing that knows of telemetry."""
