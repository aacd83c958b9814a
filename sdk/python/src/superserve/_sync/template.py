# Generated from _async/template.py by scripts/generate_sync.py. Do not edit.
"""Templates, what sandboxes are made from."""

from __future__ import annotations

import builtins
from typing import Optional

from .. import _checks
from .._config import Config, resolve
from .._http import Answer, Call
from ..types import TemplateInfo, as_list, template_info
from .transport import Transport


class Template:
    """A template. Get one with ``get``; pass it, its name or its id as ``from_template``."""

    def __init__(self, info: TemplateInfo, config: Config) -> None:
        self._info = info
        self._config = config

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
        """Everything about it at the time it was read."""
        return self._info

    def __repr__(self) -> str:
        return f"{type(self).__name__}(id={self.id!r}, name={self.name!r})"

    @classmethod
    def get(
        cls, name_or_id: str, *, api_key: Optional[str] = None, base_url: Optional[str] = None
    ) -> Template:
        """A template by its name or UUID."""
        config = resolve(api_key, base_url)
        return cls(_read(config, name_or_id), config)

    @classmethod
    def connect(
        cls, name_or_id: str, *, api_key: Optional[str] = None, base_url: Optional[str] = None
    ) -> Template:
        """The same as ``get``."""
        return cls.get(name_or_id, api_key=api_key, base_url=base_url)

    @classmethod
    def list(
        cls, *, name_prefix: Optional[str] = None, api_key: Optional[str] = None, base_url: Optional[str] = None
    ) -> builtins.list[TemplateInfo]:
        """The team's templates and the system's, by name."""
        query = [] if name_prefix is None else [("name_prefix", name_prefix)]
        answer = _ask(resolve(api_key, base_url), "/templates", query)
        return [template_info(row) for row in as_list(answer.json())]

    def get_info(self) -> TemplateInfo:
        """Reads it again."""
        return _read(self._config, self.id)


def _read(config: Config, name_or_id: str) -> TemplateInfo:
    answer = _ask(config, f"/templates/{_checks.segment(name_or_id, 'name_or_id')}", [])
    return template_info(answer.json())


def _ask(config: Config, path: str, query: builtins.list[tuple[str, str]]) -> Answer:
    transport = Transport(config)
    try:
        return transport.request(
            Call(
                "GET",
                config.base_url + path,
                headers={"X-API-Key": config.api_key},
                query=query,
                idle_timeout=config.request_timeout,
                total_timeout=config.request_timeout,
            )
        )
    finally:
        transport.close()
