"""The main class."""

from __future__ import annotations

import builtins
from collections.abc import Mapping
from typing import Optional, Union

from .. import _checks
from .._async_io import Exc, ExcType, Trace, close_quietly
from .._checks import UNSET, Network, Unset
from .._config import resolve
from ..types import (
    Json,
    NetworkLogPage,
    SandboxInfo,
    SandboxStatus,
    TemplateInfo,
    as_object,
    network_to_wire,
    sandbox_info,
)
from . import control
from .commands import AsyncCommands
from .dataplane import AsyncDataPlane, access_token
from .files import AsyncFiles
from .template import AsyncTemplate
from .transport import AsyncTransport


class AsyncSandbox:
    """A sandbox: an isolated Linux machine. Made by ``create`` and ``connect``.

    Leaving the ``async with`` block deletes the sandbox. Without one, ``kill`` deletes it; ``close`` only closes the
    connections of this object.

    All class methods take ``api_key`` (default: the environment's ``SUPERSERVE_API_KEY``), ``base_url`` (default:
    ``SUPERSERVE_BASE_URL``, then ``https://api.superserve.ai``) and ``request_timeout``, the seconds that an answer of
    the control plane may take (default 60).
    """

    def __init__(self, transport: AsyncTransport, raw: object) -> None:
        found = as_object(raw)
        self._info = sandbox_info(found)
        self._transport = transport
        url = control.data_plane_url(found, transport.config.base_url)
        self._use(AsyncDataPlane(transport, self._info.id, url, access_token(found)))

    def _use(self, plane: AsyncDataPlane) -> None:
        self._plane = plane
        self._commands = AsyncCommands(plane)
        self._files = AsyncFiles(plane)

    @classmethod
    async def create(
        cls,
        name: str,
        *,
        from_template: Union[str, AsyncTemplate, TemplateInfo, None] = None,
        from_snapshot: Optional[str] = None,
        timeout_seconds: Optional[int] = None,
        timeout_action: str = "pause",
        auto_delete_seconds: Optional[int] = None,
        metadata: Optional[Mapping[str, str]] = None,
        env_vars: Optional[Mapping[str, str]] = None,
        network: Optional[Network] = None,
        idempotency_key: Optional[str] = None,
        api_key: Optional[str] = None,
        base_url: Optional[str] = None,
        request_timeout: Optional[float] = None,
    ) -> AsyncSandbox:
        """Creates and boots a sandbox. When it returns, the sandbox is active.

        ``name``: 1-64 characters, need not be unique. ``from_template``: a template, its name or UUID (default
        ``superserve/base``). ``from_snapshot``: a snapshot's UUID instead. ``timeout_seconds``: 1-604800; what happens
        then is ``timeout_action``: ``pause`` (counts active time since creation or the latest resume) or ``delete``
        (counts from creation). ``auto_delete_seconds``: delete after so much time of being paused. ``metadata``: string
        tags. ``env_vars``: environment of every process. ``network``: a NetworkConfig. ``idempotency_key``: a second
        call with the same key within 24 hours gives the same sandbox instead of another one.
        """
        body = _checks.given(
            name=name,
            from_template=_checks.template_ref(from_template),
            from_snapshot=from_snapshot,
            timeout_seconds=timeout_seconds,
            timeout_action=timeout_action,
            auto_delete_seconds=auto_delete_seconds,
            metadata=_checks.mapping(metadata, "metadata"),
            env_vars=_checks.mapping(env_vars, "env_vars"),
            network=None if network is None else network_to_wire(network),
        )
        headers = _checks.idempotency(idempotency_key)
        transport = AsyncTransport(resolve(api_key, base_url, request_timeout))
        return await cls._made(transport, "POST", "/sandboxes", body, headers)

    @classmethod
    async def connect(
        cls,
        sandbox_id: str,
        *,
        api_key: Optional[str] = None,
        base_url: Optional[str] = None,
        request_timeout: Optional[float] = None,
    ) -> AsyncSandbox:
        """Connects to a sandbox that exists, with a fresh access token."""
        transport = AsyncTransport(resolve(api_key, base_url, request_timeout))
        return await cls._made(transport, "GET", control.sandbox_path(sandbox_id))

    @classmethod
    async def _made(
        cls,
        transport: AsyncTransport,
        method: str,
        path: str,
        body: Optional[Json] = None,
        headers: Optional[Mapping[str, str]] = None,
    ) -> AsyncSandbox:
        try:
            answer = await control.ask(transport, method, path, body, headers=headers)
            return cls(transport, answer.json())
        except BaseException:
            await transport.close()
            raise

    @classmethod
    async def list(
        cls,
        *,
        metadata: Optional[Mapping[str, str]] = None,
        status: Optional[str] = None,
        limit: Optional[int] = None,
        offset: int = 0,
        api_key: Optional[str] = None,
        base_url: Optional[str] = None,
        request_timeout: Optional[float] = None,
    ) -> builtins.list[SandboxInfo]:
        """The team's sandboxes, newest first. ``metadata`` keeps those that have all these tags.

        With ``limit`` (1-200) one page from ``offset`` on, without it all.
        """
        transport = AsyncTransport(resolve(api_key, base_url, request_timeout))
        try:
            return await control.list_sandboxes(transport, metadata, status, limit, offset)
        finally:
            await transport.close()

    @classmethod
    async def kill_by_id(
        cls,
        sandbox_id: str,
        *,
        api_key: Optional[str] = None,
        base_url: Optional[str] = None,
        request_timeout: Optional[float] = None,
    ) -> None:
        """Deletes a sandbox by its id. One that is not there is no error."""
        transport = AsyncTransport(resolve(api_key, base_url, request_timeout))
        try:
            await control.delete_sandbox(transport, sandbox_id)
        finally:
            await transport.close()

    @classmethod
    async def update_by_id(
        cls,
        sandbox_id: str,
        *,
        metadata: Optional[Mapping[str, str]] = None,
        network: Optional[Network] = None,
        timeout_seconds: Union[int, None, Unset] = UNSET,
        timeout_action: Optional[str] = None,
        auto_delete_seconds: Union[int, None, Unset] = UNSET,
        api_key: Optional[str] = None,
        base_url: Optional[str] = None,
        request_timeout: Optional[float] = None,
    ) -> None:
        """As ``update``, by id."""
        transport = AsyncTransport(resolve(api_key, base_url, request_timeout))
        try:
            await control.patch_sandbox(
                transport, sandbox_id, metadata, network, timeout_seconds, timeout_action, auto_delete_seconds
            )
        finally:
            await transport.close()

    @property
    def id(self) -> str:
        """The sandbox's UUID."""
        return self._info.id

    @property
    def name(self) -> str:
        """Its name."""
        return self._info.name

    @property
    def status(self) -> SandboxStatus:
        """Its status when this object was made; ``get_info`` has the one of now."""
        return self._info.status

    @property
    def metadata(self) -> dict[str, str]:
        """Its tags when this object was made; ``get_info`` has those of now."""
        return dict(self._info.metadata)

    @property
    def commands(self) -> AsyncCommands:
        """Runs commands."""
        return self._commands

    @property
    def files(self) -> AsyncFiles:
        """Reads and writes files. Rebuilt after ``resume``."""
        return self._files

    def __repr__(self) -> str:
        return f"{type(self).__name__}(id={self.id!r}, name={self.name!r})"

    async def __aenter__(self) -> AsyncSandbox:
        return self

    async def __aexit__(self, kind: ExcType, exc: Exc, trace: Trace) -> None:
        await close_quietly(exc, self.kill)

    async def get_info(self) -> SandboxInfo:
        """The state of now. This object's own ``status`` and ``metadata`` stay as they are."""
        return sandbox_info((await control.ask(self._transport, "GET", control.sandbox_path(self.id))).json())

    async def pause(self) -> None:
        """Writes memory and disk to a snapshot and stops the sandbox. ConflictError unless it is active."""
        (await control.ask(self._transport, "POST", control.sandbox_path(self.id) + "/pause")).done()

    async def resume(self) -> None:
        """Brings a paused sandbox back, its processes too. ConflictError unless it is paused.

        The access token changes; ``files`` and ``commands`` are rebuilt with the new one.
        """
        answer = await control.ask(self._transport, "POST", control.sandbox_path(self.id) + "/resume")
        self._use(self._plane.renewed(access_token(answer.json())))

    async def kill(self) -> None:
        """Deletes the sandbox and closes the connections. One that is not there any more is no error."""
        try:
            await control.delete_sandbox(self._transport, self.id)
        finally:
            await self._transport.close()

    async def close(self) -> None:
        """Closes the connections of this object; the sandbox runs on. A later call opens new ones."""
        await self._transport.close()

    async def update(
        self,
        *,
        metadata: Optional[Mapping[str, str]] = None,
        network: Optional[Network] = None,
        timeout_seconds: Union[int, None, Unset] = UNSET,
        timeout_action: Optional[str] = None,
        auto_delete_seconds: Union[int, None, Unset] = UNSET,
    ) -> None:
        """Changes what is given; ``metadata`` and ``network`` are replaced as a whole.

        ``network`` only while active, else ConflictError. None removes ``timeout_seconds`` or ``auto_delete_seconds``.
        """
        await control.patch_sandbox(
            self._transport, self.id, metadata, network, timeout_seconds, timeout_action, auto_delete_seconds
        )

    async def get_network_log(
        self,
        *,
        limit: Optional[int] = None,
        before: Optional[str] = None,
        since: Optional[str] = None,
        verdict: Optional[str] = None,
    ) -> NetworkLogPage:
        """A page of what it reached or tried to reach, newest first. A paused sandbox stays paused.

        ``limit``: 1-200, default 50. ``before``: the ``next_cursor`` of a page, or an RFC 3339 time. ``since``: an
        RFC 3339 time, or the ``id`` of a row as text for those that came into the log after it. ``verdict``:
        ``allowed``, ``blocked`` or ``failed``. A server that keeps no log answers with ValidationError.
        """
        return await control.read_network_log(self._transport, self.id, limit, before, since, verdict)
