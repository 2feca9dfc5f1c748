"""Tests of the reference agent; without the extra `demo` there is nothing to test."""

import pytest

pytest.importorskip("espeakng_loader", reason="needs the extra `demo`")
pytest.importorskip("pocketsphinx", reason="needs the extra `demo`")
