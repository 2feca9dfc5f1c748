"""Alertmanager: who is told of an alert, and which alerts are silent because another one says it better."""

from __future__ import annotations

from typing import Any

from voicespan import names as n
from voicespan.stack import alerts
from voicespan.stack import promql as q

SECRETS = "/etc/alertmanager/secrets"
"""Where tokens and addresses are read from when a message is sent; the configuration has none."""

WATCHDOG = "watchdog"
PAGER = "pagerduty"
CHAT = "slack"
OTHERS = "default"

_WEBHOOK = "http://localhost:5001/alerts"
_MESSAGE = "{{ range .Alerts }}{{ .Annotations.description }}\n{{ end }}"
_SAME_THING = ["family", "slo", *q.SERVICE, q.POINT, q.label(n.VOICE_COMPONENT)]


def alertmanager() -> dict[str, Any]:
    """Return the configuration of Alertmanager."""
    return {
        "global": {"resolve_timeout": "5m"},
        "route": {
            "receiver": OTHERS,
            "group_by": ["alertname", "severity"],
            "group_wait": "10s",
            "group_interval": "10s",
            "repeat_interval": "1h",
            "routes": [
                {"receiver": WATCHDOG, "matchers": ['alertname="Watchdog"'], "repeat_interval": "5m"},
                {"receiver": PAGER, "matchers": ['severity="critical"'], "continue": True},
                {"receiver": CHAT, "matchers": ['severity=~"critical|warning"']},
            ],
        },
        "inhibit_rules": _inhibitions(),
        "receivers": [
            {"name": OTHERS, "webhook_configs": [{"url": _WEBHOOK}]},
            {"name": WATCHDOG, "webhook_configs": [{"url": _WEBHOOK, "send_resolved": False}]},
            {"name": CHAT, "slack_configs": [_slack()]},
            {"name": PAGER, "pagerduty_configs": [{"service_key_file": f"{SECRETS}/pagerduty-key"}]},
            {"name": "email", "email_configs": [_email()]},
        ],
    }


def _inhibitions() -> list[dict[str, Any]]:
    absent = f'{alerts.SYMPTOM}="{alerts.ABSENCE[alerts.SYMPTOM]}"'
    late = f'{alerts.SYMPTOM}="{alerts.LATENCY[alerts.SYMPTOM]}"'
    return [
        # The same thing is said once, in its stronger form.
        {
            "source_matchers": ['severity="critical"', 'family!=""'],
            "target_matchers": ['severity="warning"', 'family!=""'],
            "equal": _SAME_THING,
        },
        # What is gone is not also slow: the one that waits is another service, so only the environment is the same.
        {
            "source_matchers": ['alertname=~"WorkerUnavailable|ServiceDown"'],
            "target_matchers": [late],
            "equal": [q.ENVIRONMENT],
        },
        {
            "source_matchers": ['alertname="ServiceDown"'],
            "target_matchers": ['alertname="WorkerUnavailable"'],
            "equal": list(q.SERVICE),
        },
        # Without telemetry nobody is known to be there.
        {"source_matchers": ['alertname="TelemetryPipelineDown"'], "target_matchers": [absent]},
    ]


def _slack() -> dict[str, Any]:
    return {
        "api_url_file": f"{SECRETS}/slack-webhook",
        "channel": "#voice-assistant-alerts",
        "title": "{{ .CommonAnnotations.summary }}",
        "text": _MESSAGE,
        "footer": "{{ .CommonAnnotations.runbook }}",
        "send_resolved": True,
    }


def _email() -> dict[str, Any]:
    return {
        "to": "oncall@example.org",
        "from": "voicespan@example.org",
        "smarthost": "smtp.example.org:587",
        "auth_username": "voicespan@example.org",
        "auth_password_file": f"{SECRETS}/smtp-password",
    }
