"""A voice service as its owner wrote it: it knows nothing of voicespan. Time passes where `wait` says so."""
