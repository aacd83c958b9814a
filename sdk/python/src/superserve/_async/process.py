"""A command whose streams are connected to this program."""

from __future__ import annotations

import json
import time
from typing import Optional, Union

from .._async_io import AsyncWebSocket, Exc, ExcType, Lock, TextCallback, Trace, call_back, close_quietly
from .._collect import Kept, TextPieces
from .._upload import as_bytes
from ..errors import SandboxConnectionError, SuperserveError, ValidationError, error_from_event, invalid_response
from ..types import CommandOutput, CommandResult, Json, as_object, take
from .dataplane import AsyncDataPlane

STREAMS = {1: "stdout", 2: "stderr"}
#: Bytes of input in one message.
STDIN_CHUNK = 32 << 10
#: Seconds that the end of a killed command is waited for.
KILL_PATIENCE = 5.0
#: Seconds in which ``read_output`` takes in what is there.
AT_ONCE = 0.02


class AsyncProcess:
    """A command that runs in a sandbox. Made by ``commands.spawn`` and ``commands.attach``.

    It is a connection, not the command: when it ends, the command runs on and ``commands.attach`` finds it again.
    Leaving the ``async with`` block kills the command if it still runs and waits for its end; ``detach`` leaves it running.

    Output is taken in by iterating, by ``wait`` and by ``read_output``, one of them at a time. A command whose output
    nobody takes in waits once the buffers on the way are full. Input and signals may be sent at any time.
    """

    def __init__(
        self,
        socket: AsyncWebSocket,
        session_id: str,
        pid: int,
        on_stdout: Optional[TextCallback],
        on_stderr: Optional[TextCallback],
        offset: int = 0,
    ) -> None:
        self._socket = socket
        self._session_id = session_id
        self._pid = pid
        self._callbacks = {"stdout": on_stdout, "stderr": on_stderr}
        self._kept = {"stdout": Kept(), "stderr": Kept()}
        self._text = {"stdout": TextPieces(), "stderr": TextPieces()}
        self._exit_code: Optional[int] = None
        self._failure: Optional[SuperserveError] = None
        self._stdin_closed = False
        self._reading = Lock()
        self._writing = Lock()
        self._offset = offset
        self._lost = 0

    @property
    def pid(self) -> int:
        """The process id in the sandbox."""
        return self._pid

    @property
    def session_id(self) -> str:
        """Names the command for ``commands.attach`` and ``commands.kill``."""
        return self._session_id

    @property
    def exit_code(self) -> Optional[int]:
        """The exit code, None until the end has been taken in."""
        return self._exit_code

    @property
    def offset(self) -> int:
        """How many bytes of output, of both streams together, have been taken in: where ``commands.attach`` goes on."""
        return self._offset

    @property
    def lost(self) -> int:
        """How many bytes of output the server no longer had for this connection."""
        return self._lost

    async def __aenter__(self) -> AsyncProcess:
        return self

    async def __aexit__(self, kind: ExcType, exc: Exc, trace: Trace) -> None:
        await close_quietly(exc, self._end)

    def __aiter__(self) -> AsyncProcess:
        return self

    async def __anext__(self) -> CommandOutput:
        async with self._reading:
            output = await self._next()
        if output is None:
            raise StopAsyncIteration
        return output

    async def write_stdin(self, data: Union[str, bytes]) -> None:
        """Writes to the command's input; text as UTF-8. Waits while the command does not read.

        What a command that has ended no longer reads is dropped.
        """
        raw = as_bytes(data)
        async with self._writing:
            if self._stdin_closed:
                raise ValidationError("the command's input was closed")
            for start in range(0, len(raw), STDIN_CHUNK):
                await self._send(b"\0" + raw[start : start + STDIN_CHUNK])

    async def close_stdin(self) -> None:
        """Ends the command's input. A second call does nothing."""
        async with self._writing:
            if not self._stdin_closed:
                self._stdin_closed = True
                await self._send('{"type":"stdin_close"}')

    async def kill(self, signal: str = "SIGTERM") -> None:
        """Sends a signal, such as ``SIGINT``. Does nothing when the command has ended."""
        await self._send(json.dumps({"type": "signal", "name": signal}))

    async def wait(self) -> CommandResult:
        """Waits for the end. The result holds all output of this connection, of each stream at most 4 MiB.

        ``truncated`` says whether some is missing.
        """
        async with self._reading:
            while await self._next() is not None:
                pass
        result = self._so_far()
        assert self._exit_code is not None
        return CommandResult(result.stdout, result.stderr, self._exit_code, result.truncated)

    async def read_output(self) -> CommandResult:
        """All output so far, without waiting for more. ``exit_code`` is -1 while the command runs."""
        async with self._reading:
            try:
                while await self._next(AT_ONCE) is not None:
                    pass
            except SuperserveError:
                if self._failure is None:
                    raise
        return self._so_far()

    async def detach(self) -> None:
        """Ends the connection; the command runs on."""
        if self._exit_code is None and self._failure is None:
            self._failure = SandboxConnectionError("this program has detached from the command")
        await self._socket.close()

    def _so_far(self) -> CommandResult:
        out, err = self._kept["stdout"], self._kept["stderr"]
        code = -1 if self._exit_code is None else self._exit_code
        return CommandResult(out.text(), err.text(), code, out.truncated or err.truncated or self._lost > 0)

    async def _send(self, message: Union[str, bytes]) -> None:
        """Sends a message, unless the command has ended."""
        if self._exit_code is not None:
            return
        try:
            await self._socket.send(message)
        except SandboxConnectionError:
            # The server closes the connection after the command's end, which may just not have been taken in yet.
            if self._reading.locked():
                return  # whoever takes it in, perhaps the caller of the callback that sends, sees how it ended
            await self.read_output()
            if self._exit_code is None:
                raise

    async def _end(self) -> None:
        """Kills the command if it still runs, waits for its end and closes the connection."""
        try:
            if self._exit_code is None and self._failure is None:
                await self.kill("SIGKILL")
                async with self._reading:
                    await self._drain()
        except SandboxConnectionError:
            pass  # nobody to tell any more
        finally:
            await self.detach()

    async def _drain(self) -> None:
        """Reads up to the command's end. A connection closed with unread output might take the signal with it."""
        deadline = time.monotonic() + KILL_PATIENCE
        while self._exit_code is None and time.monotonic() < deadline:
            message = await self._socket.receive(KILL_PATIENCE)
            if message is None:
                return
            if isinstance(message, str):
                self._note(message)

    async def _next(self, timeout: Optional[float] = None) -> Optional[CommandOutput]:
        """The next piece of output; None at the command's end and when timeout has passed."""
        while self._exit_code is None:
            if self._failure is not None:
                raise self._failure
            try:
                message = await self._socket.receive(timeout)
                if message is None:
                    return None
                if isinstance(message, str):
                    self._note(message)
                    continue
                return await self._output(message)
            except SuperserveError as error:
                self._failure = error
                await self._socket.close()
                raise
        await self._socket.close()
        return None

    async def _output(self, message: bytes) -> CommandOutput:
        name = STREAMS.get(message[0]) if message else None
        if name is None:
            raise invalid_response("a message of an unknown stream")
        data = bytes(message[1:])
        self._offset += len(data)
        self._kept[name].add(data)
        text = self._text[name].add(data)
        await call_back(self._callbacks[name], text)
        return CommandOutput(name, data, text)

    def _note(self, message: str) -> None:
        note = _parsed(message)
        if note.get("type") == "truncated":
            self._lost += take(note, "bytes", int)
            self._offset = take(note, "offset", int)
        if not note.get("finished"):
            return
        if "exit_code" not in note:
            raise error_from_event(note)
        self._exit_code = take(note, "exit_code", int)


async def open_process(
    plane: AsyncDataPlane, opening: Json, on_stdout: Optional[TextCallback], on_stderr: Optional[TextCallback]
) -> AsyncProcess:
    """Opens a session: a new command or one that is there already."""
    socket = await plane.open_session()
    try:
        await socket.send_json(opening)
        message = await socket.receive(plane.transport.config.request_timeout)
        if message is None:
            raise SandboxConnectionError("the server did not start the session in time")
        if not isinstance(message, str):
            raise invalid_response("output before the session's name")
        first = _parsed(message)
        if "session_id" not in first:
            raise error_from_event(first)
        offset = int(opening.get("offset", 0))
        return AsyncProcess(
            socket, take(first, "session_id", str), take(first, "pid", int), on_stdout, on_stderr, offset
        )
    except BaseException:
        await socket.close()
        raise


def _parsed(message: str) -> Json:
    try:
        return as_object(json.loads(message))
    except (ValueError, RecursionError) as error:
        raise invalid_response("a message of the session is no JSON") from error
