"""Keeps a command's output within bounds."""

from __future__ import annotations

import codecs

#: Bytes kept of each stream; the server keeps as much in a plain exec.
KEEP_BYTES = 4 << 20


class Kept:
    """Keeps the head and the tail of a stream, half of the limit each."""

    def __init__(self, limit: int = KEEP_BYTES) -> None:
        self._half = limit // 2
        self._head = bytearray()
        self._tail = bytearray()
        self.truncated = False

    def add(self, data: bytes) -> None:
        """Takes the next piece."""
        room = self._half - len(self._head)
        if room > 0:
            self._head += data[:room]
            data = data[room:]
        self._tail += data
        # Cut only now and then: cutting at every piece would move the whole tail each time.
        if len(self._tail) > 2 * self._half:
            del self._tail[: -self._half]
            self.truncated = True

    def text(self) -> str:
        """What was kept; where something was left out, a line says so."""
        if len(self._tail) <= self._half and not self.truncated:
            return (self._head + self._tail).decode("utf-8", "replace")
        self.truncated = True
        tail = self._tail[-self._half :].decode("utf-8", "replace")
        return self._head.decode("utf-8", "replace") + "\n[... output left out ...]\n" + tail


class TextPieces:
    """Turns pieces of bytes into text without splitting characters; what is no UTF-8 becomes U+FFFD."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def add(self, data: bytes) -> str:
        """The text of the next piece, and of what the one before could not finish."""
        return self._decoder.decode(data)
