"""Client of Superserve: isolated sandboxes for code you do not trust.

``Sandbox`` blocks, ``AsyncSandbox`` is for asyncio; both have the same methods.
"""

from ._async.commands import AsyncCommands
from ._async.files import AsyncFiles
from ._async.process import AsyncProcess
from ._async.sandbox import AsyncSandbox
from ._async.streams import AsyncFileStream, AsyncWatch
from ._async.template import AsyncTemplate
from ._sync.commands import Commands
from ._sync.files import Files
from ._sync.process import Process
from ._sync.sandbox import Sandbox
from ._sync.streams import FileStream, Watch
from ._sync.template import Template
from ._version import __version__
from .build_types import (
    BuildLogEvent,
    BuildLogStream,
    BuildStep,
    CopyStep,
    CopyStepValue,
    EnvStep,
    EnvStepValue,
    RunStep,
    TemplateBuildInfo,
    TemplateBuildStatus,
    TemplateImageUpload,
    TemplateUpload,
    UserStep,
    UserStepValue,
    WorkdirStep,
)
from .errors import (
    AuthenticationError,
    BuildError,
    ConflictError,
    NotFoundError,
    OutputTooLargeError,
    RateLimitError,
    SandboxConnectionError,
    SandboxError,
    SandboxTimeoutError,
    ServerError,
    SuperserveError,
    ValidationError,
)
from .types import (
    CommandOutput,
    CommandResult,
    FileEvent,
    FileInfo,
    NetworkConfig,
    NetworkEvent,
    NetworkLogPage,
    SandboxInfo,
    SandboxStatus,
    SessionInfo,
    TemplateInfo,
    TemplateStatus,
    WrittenFile,
)

__all__ = [
    "AsyncCommands",
    "AsyncFileStream",
    "AsyncFiles",
    "AsyncProcess",
    "AsyncSandbox",
    "AsyncTemplate",
    "AsyncWatch",
    "AuthenticationError",
    "BuildError",
    "BuildLogEvent",
    "BuildLogStream",
    "BuildStep",
    "CommandOutput",
    "CommandResult",
    "Commands",
    "ConflictError",
    "CopyStep",
    "CopyStepValue",
    "EnvStep",
    "EnvStepValue",
    "FileEvent",
    "FileInfo",
    "FileStream",
    "Files",
    "NetworkConfig",
    "NetworkEvent",
    "NetworkLogPage",
    "NotFoundError",
    "OutputTooLargeError",
    "Process",
    "RateLimitError",
    "RunStep",
    "Sandbox",
    "SandboxConnectionError",
    "SandboxError",
    "SandboxInfo",
    "SandboxStatus",
    "SandboxTimeoutError",
    "ServerError",
    "SessionInfo",
    "SuperserveError",
    "Template",
    "TemplateBuildInfo",
    "TemplateBuildStatus",
    "TemplateImageUpload",
    "TemplateInfo",
    "TemplateStatus",
    "TemplateUpload",
    "UserStep",
    "UserStepValue",
    "ValidationError",
    "Watch",
    "WorkdirStep",
    "WrittenFile",
    "__version__",
]
