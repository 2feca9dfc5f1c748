"""LiveKit Agents, unchanged: every utterance of an `AgentSession` becomes a turn.

Nothing of the framework is imported here: the hooks are put in place when the service has imported it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import wrapt
from opentelemetry.instrumentation.instrumentor import BaseInstrumentor  # type: ignore[attr-defined]

if TYPE_CHECKING:
    from collections.abc import Collection

REQUIREMENT = "livekit-agents >= 1.8.7, < 2"


class LiveKitInstrumentor(BaseInstrumentor):  # type: ignore[misc]
    """Entry point `opentelemetry_instrumentor`: waits for the framework to be imported."""

    def instrumentation_dependencies(self) -> Collection[str]:
        """Return the versions that the hooks were made for; in another one they are tried, and what moved is said."""
        return (REQUIREMENT,)

    def _instrument(self, **kwargs: Any) -> None:
        wrapt.register_post_import_hook(_install, "livekit.agents")

    def _uninstrument(self, **kwargs: Any) -> None:
        from voicespan.integrations.livekit import hooks

        hooks.remove()


def _install(_module: object) -> None:
    """Put the hooks in place. Never raises: an import of the service would fail."""
    from voicespan.guard import swallowed

    try:
        from voicespan.integrations.livekit import hooks

        hooks.install()
    except Exception as error:
        swallowed("livekit", error)
