"""What a realtime session is set up with, as far as it says what its events mean."""

from __future__ import annotations

from typing import Any

from voicespan.integrations.openai.audio import bytes_per_s
from voicespan.integrations.openai.event import plain

PADDING_MS = 300
SILENCE_MS = 500
"""The protocol's defaults of `prefix_padding_ms` and `silence_duration_ms`."""


class Settings:
    """The settings of one realtime session; the server confirms every change, and what it leaves out stays."""

    def __init__(self) -> None:
        self.model: str | None = None
        self.voice: str | None = None
        self.transcriber: str | None = None
        self.listens_only = False
        """A transcription session: it never answers."""
        self.speaks = True
        """Whether responses are speech; else they are text."""
        self.input_bytes_per_s = self.output_bytes_per_s = bytes_per_s(None)
        self.detector: str | None = "server_vad"
        """How the server finds the end of a turn: by silence, by meaning (`semantic_vad`), or not at all."""
        self.answers = True
        """The server answers by itself when the turn is over."""
        self.padding_ns = PADDING_MS * 1_000_000
        self.silence_ns: int | None = SILENCE_MS * 1_000_000
        """How long the server waits in silence; None where it does not say."""

    def take(self, session: Any) -> None:
        """Take the settings of `session.created` or `session.updated`, also those of the protocol's beta."""
        told = plain(session)
        self.listens_only = told.get("type") == "transcription"
        self.model = told.get("model") or self.model
        audio = told.get("audio") or {}
        heard, said = audio.get("input") or {}, audio.get("output") or {}
        voice = said.get("voice", told.get("voice"))
        voice = voice.get("id") if isinstance(voice, dict) else voice  # a voice of one's own
        self.voice = voice if isinstance(voice, str) else self.voice
        modalities = told.get("output_modalities", told.get("modalities"))
        if modalities:
            self.speaks = "audio" in modalities
        if found := heard.get("format") or told.get("input_audio_format"):
            self.input_bytes_per_s = bytes_per_s(found)
        if found := said.get("format") or told.get("output_audio_format"):
            self.output_bytes_per_s = bytes_per_s(found)
        for place, name in ((heard, "transcription"), (told, "input_audio_transcription")):
            if name in place:
                self.transcriber = (place[name] or {}).get("model")
        for place in (heard, told):
            if "turn_detection" in place:
                self._take_detection(place["turn_detection"])

    def _take_detection(self, told: Any) -> None:
        detection = told if isinstance(told, dict) else {}
        self.detector = detection.get("type", "server_vad") if detection else None
        self.answers = self.detector is not None and detection.get("create_response") is not False
        if self.detector == "server_vad":
            self.padding_ns = (detection.get("prefix_padding_ms") or PADDING_MS) * 1_000_000
            silence_ms = detection.get("silence_duration_ms")
            self.silence_ns = (SILENCE_MS if silence_ms is None else silence_ms) * 1_000_000
        else:
            self.padding_ns, self.silence_ns = 0, None
