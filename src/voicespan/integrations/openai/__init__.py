"""The OpenAI client, unchanged: realtime connections become sessions, and chat and speech become stages of a turn.

Nothing of the client is imported here: the hooks are put in place when the service has imported it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import wrapt
from opentelemetry.instrumentation.instrumentor import BaseInstrumentor  # type: ignore[attr-defined]

if TYPE_CHECKING:
    from collections.abc import Collection

REQUIREMENT = "openai >= 2, < 4"
MODULES = (
    "openai._streaming",
    "openai.resources.audio.speech",
    "openai.resources.chat.completions.completions",
    "openai.resources.realtime.realtime",
    "openai.resources.responses.responses",
)
"""Parts of the client that are hooked when they are imported, each by itself."""


class OpenAIInstrumentor(BaseInstrumentor):  # type: ignore[misc]
    """Entry point `opentelemetry_instrumentor`: waits for the client to be imported."""

    def instrumentation_dependencies(self) -> Collection[str]:
        """Return the versions that the hooks were made for; in another one they are tried, and what moved is said."""
        return (REQUIREMENT,)

    def _instrument(self, **kwargs: Any) -> None:
        for module in MODULES:
            wrapt.register_post_import_hook(_install, module)
        wrapt.register_post_import_hook(_stand_in, "opentelemetry.instrumentation.openai_v2")

    def _uninstrument(self, **kwargs: Any) -> None:
        from voicespan.integrations.openai import hooks

        for group in hooks.HOOKS.values():
            group.remove()


def _install(module: Any) -> None:
    """Put the hooks of a module in place. Never raises: an import of the service would fail."""
    from voicespan.guard import swallowed

    try:
        from voicespan.integrations.openai import hooks

        hooks.HOOKS[module.__name__].install()
    except Exception as error:
        swallowed("openai", error)


def _stand_in(module: Any) -> None:
    """Let the stock instrumentation of the client make no span where a stage of ours is the span."""
    from voicespan.guard import swallowed

    try:
        from voicespan.integrations.openai import stock

        stock.stand_in(module)
    except Exception as error:
        swallowed("openai", error)
