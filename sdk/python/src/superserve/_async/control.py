"""Calls of the control plane."""

from __future__ import annotations

import builtins
from collections.abc import Mapping
from typing import Optional, Union

from .. import _checks
from .._async_io import UploadContent
from .._checks import Network, Unset
from .._config import origin
from .._http import Answer, Call
from ..errors import NotFoundError, ValidationError, invalid_response
from ..types import Json, NetworkLogPage, SandboxInfo, as_list, network_log_page, sandbox_info
from .transport import AsyncTransport

#: Seconds, at least, that an upload may stand still. The server answers when it has read through all of it.
UPLOAD_IDLE_TIMEOUT = 60.0
#: Entries of one page when everything is asked for; the server's maximum.
PAGE = 200


async def ask(
    transport: AsyncTransport,
    method: str,
    path: str,
    body: Optional[Json] = None,
    query: Optional[builtins.list[tuple[str, str]]] = None,
    headers: Optional[Mapping[str, str]] = None,
) -> Answer:
    """One call."""
    config = transport.config
    return await transport.request(
        Call(
            method,
            config.base_url + path,
            headers={"X-API-Key": config.api_key, **(headers or {})},
            query=query or [],
            body=None if body is None else _checks.to_json(body),
            idle_timeout=config.request_timeout,
            total_timeout=config.request_timeout,
        )
    )


async def upload(transport: AsyncTransport, path: str, content: UploadContent, size: Optional[int] = None) -> Answer:
    """Sends a tar; size is given when only the caller knows it."""
    config = transport.config
    headers = {"X-API-Key": config.api_key, **({} if size is None else {"Content-Length": str(size)})}
    call = Call(
        "POST",
        config.base_url + path,
        headers=headers,
        content_type="application/x-tar",
        idle_timeout=max(config.request_timeout, UPLOAD_IDLE_TIMEOUT),
    )
    return await transport.upload(call, content)


def sandbox_path(sandbox_id: str) -> str:
    """The path of a sandbox."""
    return f"/sandboxes/{_checks.segment(sandbox_id, 'sandbox_id')}"


async def list_sandboxes(
    transport: AsyncTransport,
    metadata: Optional[Mapping[str, str]],
    status: Optional[str],
    limit: Optional[int],
    offset: int,
) -> builtins.list[SandboxInfo]:
    """One page, or without a limit all pages."""
    found: dict[str, SandboxInfo] = {}
    while True:
        query = _checks.list_query(metadata, status, PAGE if limit is None else limit, offset)
        answer = await ask(transport, "GET", "/sandboxes", query=query)
        page = [sandbox_info(row) for row in as_list(answer.json())]
        before = len(found)
        # Sandboxes made or deleted meanwhile move the others to another page: none may come twice.
        found.update({info.id: info for info in page})
        offset += len(page)
        if limit is not None or len(page) < PAGE or len(found) == before:
            return list(found.values())


async def patch_sandbox(
    transport: AsyncTransport,
    sandbox_id: str,
    metadata: Optional[Mapping[str, str]],
    network: Optional[Network],
    timeout_seconds: Union[int, None, Unset],
    timeout_action: Optional[str],
    auto_delete_seconds: Union[int, None, Unset],
) -> None:
    """Changes what is given."""
    body = _checks.update_body(metadata, network, timeout_seconds, timeout_action, auto_delete_seconds)
    (await ask(transport, "PATCH", sandbox_path(sandbox_id), body)).done()


async def delete_sandbox(transport: AsyncTransport, sandbox_id: str) -> None:
    """Deletes a sandbox; one that is not there is no error."""
    try:
        (await ask(transport, "DELETE", sandbox_path(sandbox_id))).done()
    except NotFoundError:
        pass


async def read_network_log(
    transport: AsyncTransport,
    sandbox_id: str,
    limit: Optional[int],
    before: Optional[str],
    since: Optional[str],
    verdict: Optional[str],
) -> NetworkLogPage:
    """One page of the log."""
    given = _checks.given(limit=limit, before=before, since=since, verdict=verdict)
    query = [(key, str(value)) for key, value in given.items()]
    answer = await ask(transport, "GET", sandbox_path(sandbox_id) + "/network", query=query)
    return network_log_page(answer.json())


def data_plane_url(raw: Json, base_url: str) -> str:
    """Where the data plane is; a server that does not say serves it on its own address."""
    url = raw.get("data_plane_url", base_url)
    if not isinstance(url, str):
        raise invalid_response("data_plane_url is no string")
    try:
        return origin(url, "data_plane_url")
    except ValidationError as error:
        raise invalid_response(error.message) from error
