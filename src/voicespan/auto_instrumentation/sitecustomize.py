"""What Python imports by itself, where it finds this directory on its path."""

from voicespan.auto_instrumentation import initialize

initialize()
