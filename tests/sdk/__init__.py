"""Tests of the SDK as voicespan sets it up."""
