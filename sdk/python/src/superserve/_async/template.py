"""Templates, what sandboxes are made from."""

from __future__ import annotations

import builtins
import os
import tempfile
from collections.abc import Mapping
from datetime import datetime
from typing import Optional, Union

from .. import _checks
from .._async_io import UploadContent, call_back, in_thread, sleep
from .._config import Config, resolve
from .._context import pack
from .._http import Answer
from .._upload import check_content
from ..build_types import (
    LogCallback,
    Steps,
    TemplateBuildInfo,
    TemplateImageUpload,
    TemplateUpload,
    build_info,
    template_upload,
)
from ..errors import NotFoundError, SuperserveError, ValidationError
from ..types import Json, TemplateInfo, TemplateStatus, as_list, as_object, take, template_info
from . import control
from .builds import AsyncBuildLog, build_failure
from .transport import AsyncTransport

_FINAL = ("ready", "failed", "cancelled")


class AsyncTemplate:
    """A template: the files, processes and size that sandboxes are made from. Made by ``create`` and ``get``.

    Pass it, its name or its id as ``from_template``. Its properties are as they were when this object was made;
    ``get_info`` has those of now.

    All class methods take ``api_key``, ``base_url`` and ``request_timeout``, as those of ``Sandbox`` do.
    """

    def __init__(self, info: TemplateInfo, config: Config, begun: Optional[str] = None) -> None:
        self._info = info
        self._config = config
        #: The build that this object began last.
        self._begun = begun

    @property
    def id(self) -> str:
        """Its UUID."""
        return self._info.id

    @property
    def name(self) -> str:
        """Its name, such as ``superserve/base``."""
        return self._info.name

    @property
    def info(self) -> TemplateInfo:
        """Everything about it."""
        return self._info

    @property
    def team_id(self) -> str:
        """Its team; a system template has the nil UUID."""
        return self._info.team_id

    @property
    def status(self) -> TemplateStatus:
        """Its status."""
        return self._info.status

    @property
    def vcpu(self) -> int:
        """Virtual CPUs of its sandboxes."""
        return self._info.vcpu

    @property
    def memory_mib(self) -> int:
        """Their memory, in MiB."""
        return self._info.memory_mib

    @property
    def disk_mib(self) -> int:
        """Their writable disk, in MiB."""
        return self._info.disk_mib

    @property
    def size_bytes(self) -> Optional[int]:
        """Size of its files and captured memory; None until ready."""
        return self._info.size_bytes

    @property
    def error_message(self) -> Optional[str]:
        """``<code>: detail``; only when failed."""
        return self._info.error_message

    @property
    def created_at(self) -> datetime:
        """When it was made."""
        return self._info.created_at

    @property
    def built_at(self) -> Optional[datetime]:
        """When the build ended that sandboxes are made from; None until ready."""
        return self._info.built_at

    @property
    def latest_build_id(self) -> Optional[str]:
        """The build asked for last; None for a system template."""
        return self._info.latest_build_id

    @property
    def progress(self) -> Optional[str]:
        """What a build under way was doing when this was read, for people; None when none was."""
        return self._info.progress

    def __repr__(self) -> str:
        return f"{type(self).__name__}(id={self.id!r}, name={self.name!r})"

    @classmethod
    async def create(
        cls,
        name: str,
        *,
        from_: Optional[str] = None,
        from_template: Union[str, AsyncTemplate, TemplateInfo, None] = None,
        steps: Optional[Steps] = None,
        start_cmd: Optional[str] = None,
        ready_cmd: Optional[str] = None,
        vcpu: Optional[int] = None,
        memory_mib: Optional[int] = None,
        disk_mib: Optional[int] = None,
        idempotency_key: Optional[str] = None,
        api_key: Optional[str] = None,
        base_url: Optional[str] = None,
        request_timeout: Optional[float] = None,
    ) -> AsyncTemplate:
        """Makes a template. It returns at once, when the build has been begun; ``wait_until_ready`` waits for it.

        ``name``: unique in the team; 1-128 of ``a-z``, ``0-9``, ``.``, ``_``, ``-`` and ``/``. ``from_``: an OCI image
        such as ``python:3.12-slim``; or else ``from_template``: a ready template, its name or UUID. ``steps``: what is
        done then, in this order; each a ``RunStep``, ``EnvStep``, ``WorkdirStep``, ``UserStep`` or ``CopyStep``, or a
        mapping such as ``{"run": "pip install numpy"}``. Their results are cached: a build goes on after the longest
        run of steps that was done before. ``start_cmd``: a command that every sandbox comes up with: it is started
        after the steps, and captured running. ``ready_cmd``: run every 2 seconds, for at most 10 minutes, until it
        exits with 0; then ``start_cmd`` is captured. ``vcpu`` (1-4, default 1), ``memory_mib`` (256-4096, default 1024)
        and ``disk_mib`` (1024-8192, default 4096): size of the sandboxes; a server may allow more.
        ``idempotency_key``: a second call with the same key begins no second build.

        ConflictError when the team has a template of this name, or ``from_template`` is not ready. RateLimitError
        (``too_many_templates``, ``too_many_builds``) when the team is at a quota.
        """
        config = resolve(api_key, base_url, request_timeout)
        body = _checks.build_body(from_, from_template, steps, start_cmd, ready_cmd, vcpu, memory_mib, disk_mib)
        headers = _checks.idempotency(idempotency_key)
        answer = await _ask(config, "POST", "/templates", {"name": name, **body}, headers=headers)
        raw = as_object(answer.json())
        begun = take(raw, "build_id", str)
        return cls(template_info({**raw, "latest_build_id": begun}), config, begun)

    @classmethod
    async def get(
        cls,
        name_or_id: str,
        *,
        api_key: Optional[str] = None,
        base_url: Optional[str] = None,
        request_timeout: Optional[float] = None,
    ) -> AsyncTemplate:
        """A template by its name or UUID."""
        config = resolve(api_key, base_url, request_timeout)
        return cls(template_info((await _ask(config, "GET", _path(name_or_id))).json()), config)

    @classmethod
    async def connect(
        cls,
        name_or_id: str,
        *,
        api_key: Optional[str] = None,
        base_url: Optional[str] = None,
        request_timeout: Optional[float] = None,
    ) -> AsyncTemplate:
        """The same as ``get``."""
        return await cls.get(name_or_id, api_key=api_key, base_url=base_url, request_timeout=request_timeout)

    @classmethod
    async def list(
        cls,
        *,
        name_prefix: Optional[str] = None,
        api_key: Optional[str] = None,
        base_url: Optional[str] = None,
        request_timeout: Optional[float] = None,
    ) -> builtins.list[TemplateInfo]:
        """The team's templates and the system's, by name."""
        query = [] if name_prefix is None else [("name_prefix", name_prefix)]
        answer = await _ask(resolve(api_key, base_url, request_timeout), "GET", "/templates", query=query)
        return [template_info(row) for row in as_list(answer.json())]

    @classmethod
    async def delete_by_id(
        cls,
        name_or_id: str,
        *,
        api_key: Optional[str] = None,
        base_url: Optional[str] = None,
        request_timeout: Optional[float] = None,
    ) -> None:
        """As ``delete``, by name or UUID."""
        await _remove(resolve(api_key, base_url, request_timeout), _path(name_or_id))

    @classmethod
    async def upload_context(
        cls,
        source: Union[str, os.PathLike[str], UploadContent],
        *,
        api_key: Optional[str] = None,
        base_url: Optional[str] = None,
        request_timeout: Optional[float] = None,
    ) -> TemplateUpload:
        """Sends a build context: the files for ``CopyStep``, which names them by the digest returned here.

        ``source``: a directory, as ``str`` or a path object; or an uncompressed tar as bytes, a binary file object or
        an iterator of bytes. Of a directory all that is in it is packed into a temporary file first: names, contents,
        permissions and symbolic links, which are not followed; not owners and times, so that the same files have the
        same digest. Sockets are left out; FIFOs and devices raise ValidationError.

        The server keeps it while a build names it, and for 24 hours after it was last sent; sending it again does no
        harm. ``request_timeout``: here the seconds that a transfer may stand still, 60 at least.

        ValidationError with the code ``bad_request`` when it is no tar, with ``too_large`` when it is longer than the
        server allows: 512 MiB, unless the operator has set another limit. The server waits for the rest of one that
        is too long for a few seconds only: the asyncio client, which reads nothing while it sends, raises
        SandboxConnectionError when it has more to send than that.
        """
        config = resolve(api_key, base_url, request_timeout)
        if not isinstance(source, (str, os.PathLike)):
            return await _upload(config, "/templates/contexts", source)
        with tempfile.TemporaryFile() as spool:
            size = await in_thread(pack, os.fspath(source), spool)
            return await _upload(config, "/templates/contexts", spool, size)

    @classmethod
    async def upload_image(
        cls,
        source: UploadContent,
        *,
        api_key: Optional[str] = None,
        base_url: Optional[str] = None,
        request_timeout: Optional[float] = None,
    ) -> TemplateImageUpload:
        """Sends an image; ``from_`` of what it returns is ``from_`` of templates that start with it.

        ``source``: an uncompressed tar of an OCI image layout, or what ``docker save`` writes, as bytes, a binary file
        object or an iterator of bytes. It is kept as a build context is. ``request_timeout`` as for ``upload_context``.

        ValidationError with the code ``bad_request`` when it is no image, with ``too_large`` when it is longer than the
        server allows: 8 GiB, unless the operator has set another limit; with asyncio as for ``upload_context``.
        """
        if isinstance(source, str):
            raise ValidationError("source must be the tar itself: bytes, or a file as open(path, 'rb') gives it")
        sent = await _upload(resolve(api_key, base_url, request_timeout), "/templates/images", source)
        return TemplateImageUpload(sent.digest, sent.size_bytes, f"upload:{sent.digest}")

    async def get_info(self) -> TemplateInfo:
        """The state of now. This object's own properties stay as they are."""
        return template_info((await _ask(self._config, "GET", _path(self.id))).json())

    async def delete(self) -> None:
        """Deletes the template; its name is free at once. One that is not there any more is no error.

        ConflictError while a sandbox, a snapshot or a running build needs it.
        """
        await _remove(self._config, _path(self.id))

    async def rebuild(
        self,
        *,
        from_: Optional[str] = None,
        from_template: Union[str, AsyncTemplate, TemplateInfo, None] = None,
        steps: Optional[Steps] = None,
        start_cmd: Optional[str] = None,
        ready_cmd: Optional[str] = None,
        vcpu: Optional[int] = None,
        memory_mib: Optional[int] = None,
        disk_mib: Optional[int] = None,
        idempotency_key: Optional[str] = None,
    ) -> TemplateBuildInfo:
        """Has the template built again, as the latest build was asked to, or with what is given instead.

        The arguments are those of ``create``. The source, steps and commands are one thing: with any of them given,
        none of the old ones stays. Until the new build is ready, and when it fails, sandboxes are made from the last
        good one. When the same build is running already, that one is returned.
        """
        body = _checks.build_body(from_, from_template, steps, start_cmd, ready_cmd, vcpu, memory_mib, disk_mib)
        path = _path(self.id) + "/builds"
        answer = await _ask(self._config, "POST", path, body or None, headers=_checks.idempotency(idempotency_key))
        build = build_info(answer.json())
        self._begun = build.id
        return build

    async def list_builds(self, *, limit: Optional[int] = None) -> builtins.list[TemplateBuildInfo]:
        """The latest builds, newest first: at most ``limit`` (1-100, default 20)."""
        query = [] if limit is None else [("limit", str(limit))]
        answer = await _ask(self._config, "GET", _path(self.id) + "/builds", query=query)
        return [build_info(row) for row in as_list(answer.json())]

    async def get_build(self, build_id: str) -> TemplateBuildInfo:
        """The state of a build."""
        return build_info((await _ask(self._config, "GET", self._build_path(build_id))).json())

    async def cancel_build(self, build_id: str) -> None:
        """Cancels a build; when it returns, the build has ended. One that is over or is not there is no error."""
        await _remove(self._config, self._build_path(build_id))

    async def stream_build_logs(self, on_event: LogCallback, *, build_id: Optional[str] = None) -> None:
        """Gives a build's log to ``on_event``, from its first line, until the build is over, however it ended.

        ``build_id``: default the build that this object began last, else the template's latest. A log that breaks off is
        asked for again, and no line comes twice.
        """
        found = await self._find_build(build_id)
        if found is None:
            raise SuperserveError(f"template {self.name} has no builds", code="no_builds")
        await self._follow(found, on_event)

    async def wait_until_ready(
        self,
        *,
        on_log: Optional[LogCallback] = None,
        build_id: Optional[str] = None,
        poll_interval_s: float = 2.0,
    ) -> TemplateInfo:
        """Waits until a build is over and returns the template, from which sandboxes can then be made.

        ``on_log``: gets the build's log, from its first line and then as it is written. ``build_id``: default the build
        that this object began last, else the template's latest. ``poll_interval_s``: how long to wait before asking
        again when the log does not tell of the end.

        BuildError when the build failed. ConflictError with the code ``cancelled`` when it was cancelled.
        """
        if not poll_interval_s > 0:
            raise ValidationError("poll_interval_s must be greater than 0")
        found = await self._find_build(build_id)
        if found is None:
            return await self._wait_for_system(poll_interval_s)
        build = await self.get_build(found)
        if on_log is not None or build.status not in _FINAL:
            # The log tells of the end at once; the build says how it ended, and that the template can be used.
            await self._follow(found, on_log, must=False)
            build = await self.get_build(found)
        while build.status not in _FINAL:
            await sleep(poll_interval_s)
            build = await self.get_build(found)
        failure = build_failure(build.status, build.error_message, build.id, build.template_id)
        if failure is not None:
            raise failure
        return await self.get_info()

    async def _wait_for_system(self, poll_interval_s: float) -> TemplateInfo:
        """A system template has no builds that one could look at."""
        while True:
            info = await self.get_info()
            failure = build_failure(info.status, info.error_message, "", info.id)
            if failure is not None:
                raise failure
            if info.status == "ready":
                return info
            await sleep(poll_interval_s)

    async def _find_build(self, build_id: Optional[str]) -> Optional[str]:
        return build_id or self._begun or (await self.get_info()).latest_build_id

    async def _follow(self, build_id: str, on_event: Optional[LogCallback], must: bool = True) -> None:
        """Hands over a log. Without must, one that can't be read ends there."""
        transport = AsyncTransport(self._config)
        log = AsyncBuildLog(transport, self._build_path(build_id) + "/logs")
        try:
            while True:
                try:
                    event = await log.next()
                except SuperserveError:
                    if must:
                        raise
                    return
                if event is None:
                    return
                await call_back(on_event, event)
        finally:
            await log.close()
            await transport.close()

    def _build_path(self, build_id: str) -> str:
        return f"{_path(self.id)}/builds/{_checks.segment(build_id, 'build_id')}"


def _path(name_or_id: str) -> str:
    return f"/templates/{_checks.segment(name_or_id, 'name_or_id')}"


async def _remove(config: Config, path: str) -> None:
    """Deletes what may be gone already."""
    try:
        (await _ask(config, "DELETE", path)).done()
    except NotFoundError:
        pass


async def _upload(config: Config, path: str, content: UploadContent, size: Optional[int] = None) -> TemplateUpload:
    """Sends a tar."""
    check_content(content)
    transport = AsyncTransport(config)
    try:
        return template_upload((await control.upload(transport, path, content, size)).json())
    finally:
        await transport.close()


async def _ask(
    config: Config,
    method: str,
    path: str,
    body: Optional[Json] = None,
    query: Optional[builtins.list[tuple[str, str]]] = None,
    headers: Optional[Mapping[str, str]] = None,
) -> Answer:
    """One call, on a connection of its own."""
    transport = AsyncTransport(config)
    try:
        return await control.ask(transport, method, path, body, query, headers)
    finally:
        await transport.close()
