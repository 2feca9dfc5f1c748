"""The OpenAI Agents SDK, unchanged: realtime sessions and voice pipelines become sessions of turns.

Nothing of the SDK is imported here: the hooks are put in place when the service has imported it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import wrapt
from opentelemetry.instrumentation.instrumentor import BaseInstrumentor  # type: ignore[attr-defined]

if TYPE_CHECKING:
    from collections.abc import Collection

REQUIREMENT = "openai-agents >= 0.24, < 1"
MODULES = ("agents.realtime", "agents.voice")
"""Parts of the SDK that are hooked when they are imported, each by itself."""


class OpenAIAgentsInstrumentor(BaseInstrumentor):  # type: ignore[misc]
    """Entry point `opentelemetry_instrumentor`: waits for the SDK to be imported."""

    def instrumentation_dependencies(self) -> Collection[str]:
        """Return the versions that the hooks were made for; in another one they are tried, and what moved is said."""
        return (REQUIREMENT,)

    def _instrument(self, **kwargs: Any) -> None:
        for module in MODULES:
            wrapt.register_post_import_hook(_install, module)

    def _uninstrument(self, **kwargs: Any) -> None:
        from voicespan.integrations.openai_agents import hooks

        hooks.remove()


def _install(module: Any) -> None:
    """Put the hooks of a module in place. Never raises: an import of the service would fail."""
    from voicespan.guard import swallowed

    try:
        from voicespan.integrations.openai_agents import hooks

        hooks.install(module.__name__)
    except Exception as error:
        swallowed("openai-agents", error)
