"""The OpenTelemetry SDK as voicespan sets it up: resource, providers, exporters, the queue before them, the end."""
