"""Existing pipelines become turns by a file of function names (VOICESPAN_STAGES), without a change of their code."""
