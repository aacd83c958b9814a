"""Server-sent events, without any input or output of its own."""

from __future__ import annotations

import json
from collections.abc import Iterator

from .errors import OutputTooLargeError, invalid_response
from .types import Json, as_object

#: Bytes of one event. A server's chunks are far smaller; more means that something else is talking.
MAX_EVENT_BYTES = 8 << 20
#: What may stand before the first line.
BOM = b"\xef\xbb\xbf"


class EventDecoder:
    """Takes bytes as they come and gives whole events. Comments and other fields than ``data`` are passed over."""

    def __init__(self) -> None:
        self._rest = bytearray()
        #: How much of it is known to hold no line end: a line may come byte by byte.
        self._searched = 0
        self._begun = False
        self._data: list[bytes] = []
        self._size = 0

    def feed(self, chunk: bytes) -> Iterator[Json]:
        """The events that end in chunk."""
        self._rest += chunk
        start = 0
        while (end := self._rest.find(b"\n", max(start, self._searched))) >= 0:
            line = bytes(self._rest[start:end]).rstrip(b"\r")
            start = end + 1
            if not self._begun:
                self._begun, line = True, line[3:] if line.startswith(BOM) else line
            if line:
                self._field(line)
            elif self._data:
                yield self._event()
        del self._rest[:start]
        self._searched = len(self._rest)
        self._check(self._searched)

    def _field(self, line: bytes) -> None:
        name, _, value = line.partition(b":")
        if name != b"data":
            return
        value = value[1:] if value.startswith(b" ") else value
        self._size += len(value) + 1  # with its line end, so that empty ones count too
        self._check(self._size)
        self._data.append(value)

    def _check(self, size: int) -> None:
        if size > MAX_EVENT_BYTES:
            raise OutputTooLargeError(f"an event of the stream is larger than {MAX_EVENT_BYTES} bytes")

    def _event(self) -> Json:
        text = b"\n".join(self._data)
        self._data.clear()
        self._size = 0
        try:
            return as_object(json.loads(text))
        except (ValueError, RecursionError) as error:
            raise invalid_response("an event of the stream is no JSON") from error
