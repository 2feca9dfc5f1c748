"""Speech to text by PocketSphinx with a grammar: quick, and sure about the few sentences that it knows."""

from __future__ import annotations

from collections.abc import Collection

from pocketsphinx import Decoder

MODEL = "pocketsphinx-en-us"


class Recognizer:
    """Follows one utterance while it is spoken; needs about 1 % of a processor and 0.1 s to load.

    What it has heard must be a whole sentence of the grammar: half a sentence, a cough and noise are no text.
    """

    def __init__(self, sentences: Collection[str]) -> None:
        self._sentences = frozenset(sentences)
        self._decoder = Decoder(lm=None, loglevel="FATAL")
        self._decoder.add_jsgf_string("sentences", _grammar(self._sentences))
        self._decoder.activate_search("sentences")
        self._listening = False

    def start(self) -> None:
        """Begin an utterance; of those before, only the adaptation to the line remains."""
        self.stop()
        self._decoder.start_utt()
        self._listening = True

    def listen(self, frame: bytes) -> None:
        """Take the next sound of the utterance."""
        self._decoder.process_raw(frame, no_search=False, full_utt=False)

    def words(self) -> int:
        """Return how many words seem to have been spoken so far."""
        hypothesis = self._decoder.hyp()
        return len(hypothesis.hypstr.split()) if hypothesis else 0

    def stop(self) -> None:
        """End the utterance, if one is under way."""
        if self._listening:
            self._decoder.end_utt()
            self._listening = False

    def finish(self) -> str | None:
        """Return the sentence, or None when it was none that is known."""
        self.stop()
        hypothesis = self._decoder.hyp()
        return hypothesis.hypstr if hypothesis and hypothesis.hypstr in self._sentences else None


class Recognizers:
    """Recognizers that were loaded before they are needed: loading one stops the whole process for 0.1 s."""

    def __init__(self, sentences: Collection[str], ready: int = 1) -> None:
        self._sentences = sentences
        self._idle = [Recognizer(sentences) for _ in range(ready)]

    def take(self) -> Recognizer:
        """Return one that nobody uses; a new one when all are busy."""
        return self._idle.pop() if self._idle else Recognizer(self._sentences)

    def give_back(self, recognizer: Recognizer) -> None:
        """Keep it for the next call."""
        recognizer.stop()
        self._idle.append(recognizer)


def _grammar(sentences: Collection[str]) -> str:
    return f"#JSGF V1.0;\ngrammar sentences;\npublic <sentence> = {' | '.join(sorted(sentences))};\n"
