"""`voicespan doctor`: whether a service started in this environment is seen, from its start to the dashboards."""

import os

from voicespan import choice

PROPAGATORS = "OTEL_PROPAGATORS"

left_out: dict[str, str] = {}
"""What is not in the environment of this process, though it is in the service's: with it nothing could be imported."""

if choice.unknown_propagators(os.environ):
    left_out[PROPAGATORS] = os.environ.pop(PROPAGATORS)
