"""All errors of revstore.

RevstoreError
├── UsageError                 the caller must change the call
├── ConfigError                the operator must change the configuration
├── PluginError                a plugin is missing, doubled or breaks its contract
├── ApiError                   an answer of the etcd API: gRPC code and etcd's text
├── Unavailable                try again later (no leader, stopped, overloaded)
├── StorageError               the disk or an engine failed
│   ├── CorruptionError        bytes on disk are not what was written
│   ├── PoisonedError          an earlier failure made the store refuse work
│   ├── LockedError            another process has the data directory open
│   └── FormatError            the data was written by a newer revstore
├── TransportError             a peer or client connection failed
└── InvariantViolation         a bug in revstore; never caught below the top
"""

from __future__ import annotations


class RevstoreError(Exception):
    """Base of every error that revstore raises on purpose."""


class UsageError(RevstoreError):
    """The caller passed something that can never work."""


class ConfigError(RevstoreError):
    """The configuration is wrong; the message says which value and what to do."""


class PluginError(RevstoreError):
    """A plugin cannot be found, loaded or trusted; the message says what to do."""


class ApiError(RevstoreError):
    """An error of the etcd v3 API.

    ``code`` is the gRPC status number, ``message`` the exact text that etcd's
    clients recognise. The instances are in ``revstore.api.errors``.
    """

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message

    def fresh(self) -> ApiError:
        """A copy to raise: raising one shared instance would chain tracebacks for ever."""
        return ApiError(self.code, self.message)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, ApiError):
            return NotImplemented
        return (self.code, self.message) == (other.code, other.message)

    def __hash__(self) -> int:
        return hash((self.code, self.message))

    def __reduce__(self) -> tuple[type[ApiError], tuple[int, str]]:
        return type(self), (self.code, self.message)


class Unavailable(RevstoreError):  # noqa: N818 - the field's own word
    """The work cannot be done now and may be tried again."""


class StorageError(RevstoreError):
    """A read, write or sync failed."""


class CorruptionError(StorageError):
    """Stored bytes fail their check; the message names file and offset."""


class PoisonedError(StorageError):
    """An earlier write or sync failed, so the store refuses work until reopened.

    A failed fsync is never retried: the kernel may have dropped the dirty pages and
    would report success the second time.
    """


class LockedError(StorageError):
    """Another process, or another store in this one, holds the data directory."""


class FormatError(StorageError):
    """The data directory has a format that this version cannot read."""


class TransportError(RevstoreError):
    """A connection could not be made or kept."""


class InvariantViolation(RevstoreError):  # noqa: N818 - a bug report, not an error
    """Something that must always hold does not; raised also under ``python -O``."""
