"""Processes that hold the same turn under one telemetry library each; benchmarks/peers.py starts them.

A module here imports nothing of another library and nothing of voicespan's, but for the one it is about: it runs in
that library's own environment.
"""
