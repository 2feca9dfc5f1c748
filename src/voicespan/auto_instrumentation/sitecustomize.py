"""What Python imports by itself, where it finds this directory on its path."""

from voicespan.auto_instrumentation import initialize

if __name__ == "sitecustomize":  # not who looks at all modules of the package
    initialize()
