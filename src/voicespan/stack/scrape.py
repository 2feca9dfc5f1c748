"""Prometheus: what it scrapes, and what it keeps."""

from __future__ import annotations

from typing import Any

from voicespan.stack import alerts

LOCAL = {service: f"127.0.0.1:{port}" for service, port in
         {"spans": 8889, "collector": 8888, "prometheus": 9090, "alertmanager": 9093}.items()}  # fmt: skip
"""Where everything listens when it runs on one machine."""
COMPOSE = {
    "spans": "otel-collector:8889",
    "collector": "otel-collector:8888",
    "prometheus": "127.0.0.1:9090",
    "alertmanager": "alertmanager:9093",
}

SPAN_METRICS_JOB = "otel-collector-span-metrics"


def prometheus(at: dict[str, str]) -> dict[str, Any]:
    """Return the configuration of Prometheus for the addresses of a deployment."""

    def job(name: str, target: str, **options: Any) -> dict[str, Any]:
        return {"job_name": name, **options, "static_configs": [{"targets": [target]}]}

    return {
        # The Collector flushes every 15 s; whoever scrapes more seldom loses exemplars.
        "global": {"scrape_interval": "10s", "evaluation_interval": "15s"},
        "storage": {
            # Needs --enable-feature=exemplar-storage. About 100 bytes each.
            "exemplars": {"max_exemplars": 2_000_000},
            "tsdb": {"out_of_order_time_window": "10m"},
        },
        "alerting": {"alertmanagers": [{"static_configs": [{"targets": [at["alertmanager"]]}]}]},
        "rule_files": ["rules/*.yml"],
        # Services that are scraped directly, and anything else of yours.
        "scrape_config_files": ["scrape.d/*.yml"],
        "scrape_configs": [
            # Turns and the services' own metrics; their labels are the services', not the Collector's.
            job(SPAN_METRICS_JOB, at["spans"], honor_labels=True),
            job(alerts.COLLECTOR_JOB, at["collector"]),
            job("prometheus", at["prometheus"]),
            job("alertmanager", at["alertmanager"]),
        ],
    }
