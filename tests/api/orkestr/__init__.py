"""A client for the orkestr sandbox API, shaped like the published Python SDK.

Written from that SDK's README alone, so that code which uses the SDK can be tried against the
emulator without it. Standard library only, Python 3.10+.

    export ORKESTR_API_KEY=ork_...
    export ORKESTR_BASE_URL=http://127.0.0.1:4520      # default: https://api.orkestr.eu
"""

from .errors import (
    AuthError,
    ExecTimeout,
    NetworkPolicyError,
    OrkestrError,
    PlanLimitError,
    RateLimitError,
    SandboxNotFound,
    SandboxNotReady,
    SnapshotCapReached,
)
from .sandbox import ExecChunk, ExecResult, FileEntry, Files, Sandbox

__version__ = "0.1.0"

__all__ = [
    "AuthError",
    "ExecChunk",
    "ExecResult",
    "ExecTimeout",
    "FileEntry",
    "Files",
    "NetworkPolicyError",
    "OrkestrError",
    "PlanLimitError",
    "RateLimitError",
    "Sandbox",
    "SandboxNotFound",
    "SandboxNotReady",
    "SnapshotCapReached",
]
