# Generated from _async/builds.py by scripts/generate_sync.py. Do not edit.
"""Builds of templates: their logs and how they end."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Optional

import httpx

from .._sync_io import sleep
from .._http import Call
from ..build_types import BuildLogEvent, build_log_event
from ..errors import BuildError, ConflictError, SandboxConnectionError, SandboxTimeoutError, SuperserveError
from ..types import Json
from .streams import events
from .transport import Transport, end

#: How often in a row a log may break off without a new line before that is an error.
MAX_IDLE_CUTS = 3
#: Seconds before it is asked for again.
RECONNECT_DELAY = 0.2


class BuildLog:
    """The lines of a build's log, from the first. Where it breaks off it is asked for again; no line comes twice."""

    def __init__(self, transport: Transport, path: str) -> None:
        self._transport = transport
        config = transport.config
        self._call = Call(
            "GET", config.base_url + path, headers={"X-API-Key": config.api_key, "Accept": "text/event-stream"}
        )
        self._response: Optional[httpx.Response] = None
        self._events: Optional[Iterator[Json]] = None
        self._ended = False
        #: Events that were handed over, and those that came on this connection.
        self._had = self._seen = 0
        self._cuts = 0

    def next(self) -> Optional[BuildLogEvent]:
        """The next line; None after the last."""
        while not self._ended:
            rows = self._events or self._open()
            try:
                return self._read(rows)
            except (SandboxConnectionError, SandboxTimeoutError):
                self.close()
                self._cuts += 1
                if self._cuts > MAX_IDLE_CUTS:
                    raise
            sleep(RECONNECT_DELAY)
        return None

    def close(self) -> None:
        """Closes the connection."""
        response, self._response = self._response, None
        rows, self._events = self._events, None
        if response is not None:
            end(response, rows)

    def _open(self) -> Iterator[Json]:
        self._response = self._transport.open(self._call)
        self._events = events(f"GET {self._call.url}", self._response)
        self._seen = 0
        return self._events

    def _read(self, rows: Iterator[Json]) -> BuildLogEvent:
        for row in rows:
            self._seen += 1
            if self._seen <= self._had:
                continue
            event = build_log_event(row)
            self._had, self._cuts, self._ended = self._seen, 0, event.finished
            return event
        raise SandboxConnectionError("the log ended before the build did")


def build_failure(
    status: str, error_message: Optional[str], build_id: str, template_id: str
) -> Optional[SuperserveError]:
    """Why there is nothing to wait for any more; None while a build goes on, and when it is ready."""
    if status == "cancelled":
        return ConflictError("the build was cancelled", 409, "cancelled")
    if status != "failed":
        return None
    message = error_message or "the build failed"
    match = re.fullmatch(r"([a-z][a-z0-9_]*): *(\S.*)", message, re.DOTALL)
    code, detail = match.groups() if match else ("build_failed", message)
    return BuildError(detail, code=code, build_id=build_id, template_id=template_id)
