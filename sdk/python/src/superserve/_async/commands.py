"""Commands in a sandbox."""

from __future__ import annotations

import builtins
from collections.abc import Mapping, Sequence
from typing import Optional

from .. import _checks
from .._async_io import TextCallback, call_back
from .._collect import Kept
from .._http import Call
from ..errors import SandboxConnectionError, error_from_event
from ..types import CommandResult, Json, SessionInfo, as_list, command_result, maybe, session_info, take
from .dataplane import AsyncDataPlane
from .process import AsyncProcess, open_process
from .streams import events
from .transport import end

#: Seconds a command may take when nothing is said; the server's default.
DEFAULT_TIMEOUT = 30.0
#: Seconds that an answer may come later than the command's timeout; waking a paused sandbox is part of it.
GRACE = 30.0
#: Seconds between two pieces of an event stream; the server sends a comment every 15.
STREAM_IDLE_TIMEOUT = 60.0


class AsyncCommands:
    """Commands of a sandbox, as ``sandbox.commands``. A paused sandbox is woken first."""

    def __init__(self, plane: AsyncDataPlane) -> None:
        self._plane = plane

    async def run(
        self,
        command: str,
        *,
        args: Optional[Sequence[str]] = None,
        cwd: Optional[str] = None,
        env: Optional[Mapping[str, str]] = None,
        user: Optional[str] = None,
        timeout_seconds: Optional[float] = None,
        on_stdout: Optional[TextCallback] = None,
        on_stderr: Optional[TextCallback] = None,
    ) -> CommandResult:
        """Runs a command to its end. An exit code other than 0 is a result, not an error.

        ``command`` is run by ``/bin/sh -c``; with ``args`` it is a program's name and no shell is involved. ``cwd`` and
        ``user`` default to the template's (``/home/user`` and ``root``). After ``timeout_seconds`` (default 30) the
        command is killed and the exit code is 124.

        With ``on_stdout`` or ``on_stderr`` the output is also handed over as it comes. Of each stream the result keeps
        4 MiB, its head and its tail; ``truncated`` says whether something was left out.
        """
        body = _checks.exec_body(command, args, cwd, env, user, timeout_seconds)
        if on_stdout is not None or on_stderr is not None:
            return await self._stream(body, on_stdout, on_stderr)
        patience = (DEFAULT_TIMEOUT if timeout_seconds is None else max(timeout_seconds, 0)) + GRACE
        answer = await self._plane.request(
            Call("POST", "/exec", body=_checks.to_json(body), idle_timeout=patience, total_timeout=patience)
        )
        return command_result(answer.json())

    async def spawn(
        self,
        command: str,
        *,
        args: Optional[Sequence[str]] = None,
        cwd: Optional[str] = None,
        env: Optional[Mapping[str, str]] = None,
        user: Optional[str] = None,
        timeout_seconds: Optional[float] = None,
        on_stdout: Optional[TextCallback] = None,
        on_stderr: Optional[TextCallback] = None,
    ) -> AsyncProcess:
        """Starts a command and connects its streams. Without ``timeout_seconds`` it has no time limit.

        The arguments are those of ``run``. The callbacks are called while ``wait``, ``read_output`` or an iteration
        takes the output in.
        """
        opening = _checks.exec_body(command, args, cwd, env, user, timeout_seconds)
        return await open_process(self._plane, opening, on_stdout, on_stderr)

    async def attach(
        self,
        session_id: str,
        *,
        offset: int = 0,
        on_stdout: Optional[TextCallback] = None,
        on_stderr: Optional[TextCallback] = None,
    ) -> AsyncProcess:
        """Connects to a command that runs or has ended recently, and gets its output from ``offset`` on.

        ``offset`` is what ``process.offset`` was when the earlier connection ended. The server keeps 1 MiB of each
        stream; older output is gone and ``process.lost`` says so.
        """
        opening: Json = {"attach": session_id, "offset": offset}
        return await open_process(self._plane, opening, on_stdout, on_stderr)

    async def list(self) -> builtins.list[SessionInfo]:
        """The sessions that run, and those that ended recently."""
        answer = await self._plane.request(Call("GET", "/exec/sessions"))
        raw = answer.json()
        rows = raw.get("sessions") if isinstance(raw, dict) else raw
        return [session_info(row) for row in as_list(rows)]

    async def kill(self, session_id: str) -> None:
        """Kills a session's command; the entry of one that has ended is removed. NotFoundError when there is none."""
        path = f"/exec/sessions/{_checks.segment(session_id, 'session_id')}"
        (await self._plane.request(Call("DELETE", path))).done()

    async def _stream(
        self, body: Json, on_stdout: Optional[TextCallback], on_stderr: Optional[TextCallback]
    ) -> CommandResult:
        call = Call("POST", "/exec/stream", body=_checks.to_json(body), idle_timeout=STREAM_IDLE_TIMEOUT)
        stdout, stderr = Kept(), Kept()
        response = await self._plane.open(call)
        rows = events("POST /exec/stream", response)
        try:
            async for event in rows:
                for name, kept, callback in (("stdout", stdout, on_stdout), ("stderr", stderr, on_stderr)):
                    if (text := maybe(event, name, str)) is not None:
                        kept.add(text.encode("utf-8", "replace"))
                        await call_back(callback, text)
                if event.get("finished"):
                    return _result(event, stdout, stderr)
        finally:
            await end(response, rows)
        raise SandboxConnectionError("the stream ended before the command did")


def _result(event: Json, stdout: Kept, stderr: Kept) -> CommandResult:
    if "exit_code" not in event:
        raise error_from_event(event)
    out, err = stdout.text(), stderr.text()
    return CommandResult(out, err, take(event, "exit_code", int), stdout.truncated or stderr.truncated)
