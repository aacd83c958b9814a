"""Drives the blocking and the asyncio client with the same test code, and plays servers that behave badly."""

from __future__ import annotations

import asyncio
import inspect
import json
import os
import socket
import ssl
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Optional

import superserve

KEY = "ss_live_testtesttesttesttesttesttesttest"
SANDBOX_ID = "7a3f2b8c-0000-4000-8000-000000000001"


class Driver:
    """One of the two clients. ``do`` turns what a call returns into its result, awaiting it where needed."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        prefix = "Async" if kind == "async" else ""
        self.Sandbox: Any = getattr(superserve, prefix + "Sandbox")
        self.Template: Any = getattr(superserve, prefix + "Template")
        self.loop = asyncio.new_event_loop()

    def do(self, value: Any) -> Any:
        """The result of a call."""
        if not inspect.isawaitable(value):
            return value

        async def awaited() -> Any:
            return await value

        return self.loop.run_until_complete(awaited())

    def each(self, stream: Any) -> list[Any]:
        """Everything that an iteration gives."""
        if hasattr(stream, "__iter__"):
            return list(stream)

        async def collect() -> list[Any]:
            return [item async for item in stream]

        return list(self.do(collect()))

    def next(self, stream: Any) -> Any:
        """The next item of an iteration."""
        return self.do(stream.__anext__() if self.kind == "async" else stream.__next__())

    def enter(self, manager: Any) -> Any:
        """Begins a ``with`` block."""
        return self.do(manager.__aenter__() if self.kind == "async" else manager.__enter__())

    def exit(self, manager: Any, error: Optional[BaseException] = None) -> None:
        """Ends a ``with`` block."""
        args = (type(error) if error else None, error, None)
        self.do(manager.__aexit__(*args) if self.kind == "async" else manager.__exit__(*args))

    def close(self) -> None:
        """Ends the event loop."""
        self.loop.run_until_complete(self.loop.shutdown_asyncgens())
        self.loop.run_until_complete(self.loop.shutdown_default_executor())
        self.loop.close()


@dataclass
class Request:
    """What a client sent."""

    method: str
    path: str
    query: str
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        """The body as JSON."""
        return json.loads(self.body)


Reply = Callable[[socket.socket, Request], None]


def answer(status: int = 200, body: Any = b"", headers: Optional[dict[str, str]] = None) -> Reply:
    """A proper answer; what is no bytes is sent as JSON."""
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    found = {"Content-Type": "application/json", "Content-Length": str(len(raw)), **(headers or {})}
    head = f"HTTP/1.1 {status} X\r\n" + "".join(f"{k}: {v}\r\n" for k, v in found.items()) + "\r\n"
    return raw_answer(head.encode() + raw, keep=True)


def raw_answer(data: bytes, keep: bool = False) -> Reply:
    """These bytes and, unless keep, the connection's end."""

    def reply(connection: socket.socket, _: Request) -> None:
        connection.sendall(data)
        if not keep:
            raise ConnectionAbortedError

    return reply


def error(status: int, code: str, headers: Optional[dict[str, str]] = None) -> Reply:
    """An error of the API."""
    return answer(status, {"error": {"code": code, "message": f"this is {code}"}}, headers)


def drop() -> Reply:
    """No answer at all."""
    return raw_answer(b"")


def events(*items: Any, end: bytes = b"0\r\n\r\n") -> Reply:
    """An event stream: objects are events, bytes are sent as they are. Without end it is cut off."""
    chunks = [item if isinstance(item, bytes) else b"data: " + json.dumps(item).encode() + b"\n\n" for item in items]
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
    body = b"".join(b"%x\r\n%s\r\n" % (len(chunk), chunk) for chunk in chunks)
    return raw_answer(head + body + end)


@dataclass
class HostileServer:
    """An HTTP server whose answers a test chooses: by route, one after the other, the last one again and again."""

    replies: dict[str, list[Reply]] = field(default_factory=dict)
    requests: list[Request] = field(default_factory=list)
    open_connections: int = 0
    tls: Optional[ssl.SSLContext] = None

    def __post_init__(self) -> None:
        self._changed = threading.Condition()
        self.stop = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        scheme = "https" if self.tls else "http"
        self.url = f"{scheme}://127.0.0.1:{self._listener.getsockname()[1]}"
        self.on("POST /sandboxes", answer(201, self.sandbox()))
        self.on(f"GET /sandboxes/{SANDBOX_ID}", answer(200, self.sandbox()))
        self.on(f"DELETE /sandboxes/{SANDBOX_ID}", answer(204, b"", {"Content-Length": "0"}))
        threading.Thread(target=self._accept, daemon=True).start()

    def sandbox(self, **fields: Any) -> dict[str, Any]:
        """A sandbox of the wire."""
        return {
            "id": SANDBOX_ID,
            "name": "test",
            "status": "active",
            "vcpu_count": 1,
            "memory_mib": 1024,
            "created_at": "2026-01-02T15:04:05.123Z",
            "metadata": {},
            "data_plane_url": self.url,
            "access_token": "token-1",
            **fields,
        }

    def on(self, route: str, *replies: Reply) -> None:
        """Sets the answers of a method and path."""
        self.replies[route] = list(replies)

    def seen(self, route: str) -> list[Request]:
        """The requests of a method and path."""
        method, _, path = route.partition(" ")
        return [r for r in self.requests if r.method == method and r.path == path]

    def wait_for_no_connections(self) -> None:
        """Returns when all connections are closed."""
        with self._changed:
            assert self._changed.wait_for(lambda: self.open_connections == 0, 5), "a connection is still open"

    def close(self) -> None:
        """Stops."""
        self.stop.set()
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with self._changed:
                self.open_connections += 1
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        try:
            if self.tls is not None:
                connection = self.tls.wrap_socket(connection, server_side=True)
            with connection, connection.makefile("rb") as reader:
                while (request := self._read(reader)) is not None:
                    self.requests.append(request)
                    self._reply(request)(connection, request)
        except OSError:
            pass
        with self._changed:
            self.open_connections -= 1
            self._changed.notify_all()

    def _reply(self, request: Request) -> Reply:
        replies = self.replies.get(f"{request.method} {request.path}") or [error(404, "not_found")]
        return replies.pop(0) if len(replies) > 1 else replies[0]

    @staticmethod
    def _read(reader: Any) -> Optional[Request]:
        line = reader.readline().decode()
        if not line:
            return None
        method, target, _ = line.split(" ")
        headers: dict[str, str] = {}
        while line := reader.readline().decode().rstrip("\r\n"):
            name, _, value = line.partition(":")
            headers[name.lower()] = value.strip()
        path, _, query = target.partition("?")
        body = b""
        if headers.get("transfer-encoding") == "chunked":
            while (line := reader.readline()) and (size := int(line, 16)):
                body += reader.read(size)
                reader.readline()
            reader.readline()
        elif "content-length" in headers:
            body = reader.read(int(headers["content-length"]))
        return Request(method, path, query, headers, body)


def open_sockets() -> int:
    """How many sockets this process has open."""
    count = 0
    for fd in os.listdir("/proc/self/fd"):
        try:
            count += os.readlink(f"/proc/self/fd/{fd}").startswith("socket:")
        except OSError:
            pass
    return count
