"""Calls into one sandbox."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Optional, TypeVar
from urllib.parse import urlencode

import httpx

from .._async_io import AsyncWebSocket, UploadContent, open_websocket
from .._checks import segment
from .._http import Answer, Call
from .._websocket import EXEC_PROTOCOL, Handshake
from ..errors import AuthenticationError, invalid_response
from ..types import as_object, take
from .transport import USER_AGENT, AsyncTransport

T = TypeVar("T")


class AsyncDataPlane:
    """Knows where a sandbox's data plane is and the token that opens it.

    Somebody else's ``resume`` makes the token invalid. A call that is refused for that has had no effect, so it is sent
    once more with a fresh token.
    """

    def __init__(self, transport: AsyncTransport, sandbox_id: str, url: str, token: str) -> None:
        self.transport = transport
        self._sandbox_id = sendable(sandbox_id, "id")
        self._url = url
        self._token = token

    def renewed(self, token: str) -> AsyncDataPlane:
        """The same with another token."""
        return AsyncDataPlane(self.transport, self._sandbox_id, self._url, token)

    async def request(self, call: Call) -> Answer:
        """Sends a request and reads the whole answer."""
        token = self._token
        try:
            return await self.transport.request(self._addressed(call))
        except AuthenticationError as error:
            await self._refresh(error, token)
        return await self.transport.request(self._addressed(call))

    async def open(self, call: Call) -> httpx.Response:
        """Sends a request and returns when the head of the answer is there. The caller closes it."""
        token = self._token
        try:
            return await self.transport.open(self._addressed(call))
        except AuthenticationError as error:
            await self._refresh(error, token)
        return await self.transport.open(self._addressed(call))

    async def upload(self, call: Call, content: UploadContent) -> Answer:
        """Sends content as the body."""
        token = self._token
        try:
            return await self.transport.upload(self._addressed(call), content)
        except AuthenticationError as error:
            if not isinstance(content, (str, bytes, bytearray, memoryview)):
                raise  # partly read already
            await self._refresh(error, token)
        return await self.transport.upload(self._addressed(call), content)

    async def open_session(self) -> AsyncWebSocket:
        """Opens the WebSocket of a command session."""
        token = self._token
        try:
            return await open_websocket(self._handshake())
        except AuthenticationError as error:
            await self._refresh(error, token)
        return await open_websocket(self._handshake())

    def _handshake(self) -> Handshake:
        return Handshake(
            url="ws" + self._url[len("http") :] + "/exec/connect",
            headers={"X-Superserve-Sandbox-Id": self._sandbox_id},
            subprotocols=(EXEC_PROTOCOL, "token." + subprotocol(self._token)),
            user_agent=USER_AGENT,
            timeout=self.transport.config.request_timeout,
        )

    def _addressed(self, call: Call) -> Call:
        query = "?" + urlencode(call.query) if call.query else ""
        headers = {"X-Superserve-Sandbox-Id": self._sandbox_id, "X-Access-Token": self._token, **call.headers}
        return replace(call, url=self._url + call.url + query, query=(), headers=headers)

    async def _refresh(self, error: AuthenticationError, used: str) -> None:
        """Gets the token of now; raises error when that is not a new one."""
        if error.status_code != 401:
            raise error
        if self._token == used:
            config = self.transport.config
            answer = await self.transport.request(
                Call(
                    "GET",
                    f"{config.base_url}/sandboxes/{segment(self._sandbox_id, 'sandbox_id')}",
                    headers={"X-API-Key": config.api_key},
                    total_timeout=config.request_timeout,
                )
            )
            self._token = access_token(answer.json())
        if self._token == used:
            raise error


def access_token(raw: object, otherwise: Optional[str] = None) -> str:
    """The access token in an answer."""
    found = as_object(raw)
    if otherwise is not None and found.get("access_token") is None:
        return otherwise
    return sendable(take(found, "access_token", str), "access_token")


def sendable(value: str, what: str) -> str:
    """Part of an answer that goes into headers."""
    if not re.fullmatch("[!-~]+", value):
        raise invalid_response(f"field {what!r} has characters that it cannot have")
    return value


def subprotocol(token: str) -> str:
    """A token as WebSocket subprotocols allow it."""
    if not re.fullmatch(r"[\w!#$%&'*+.^`|~-]+", token, re.ASCII):
        raise invalid_response("an access token that cannot open a session")
    return token
