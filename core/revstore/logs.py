"""Structured logs in etcd's shape, on the standard library.

``log = logs.get(__name__)`` and then ``log.info("what happened", key=value)``. As JSON a
line has ``level``, ``ts``, ``logger``, ``caller``, ``msg`` and the fields, like zap's.

Rules of this file:

1. The message is a constant; what varies goes into fields.
2. A level that is off costs one look-up and formats nothing.
3. Logging never raises into its caller.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import Any

import msgspec

from revstore.closing import Closing
from revstore.errors import ConfigError

PANIC = 45
"""Between ERROR and CRITICAL, which is etcd's fatal."""

LEVELS: dict[str, int] = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warn": logging.WARNING,
    "error": logging.ERROR,
    "panic": PANIC,
    "fatal": logging.CRITICAL,
}
_NAMES = {number: name for name, number in LEVELS.items()}
_STREAMS = ("default", "stderr", "stdout", "systemd/journal")
_ROTATED_FILES_MAX = 1000
"""lumberjack keeps all files for maxbackups=0; here that many."""


class Log:
    """A logger whose calls take fields as keyword arguments."""

    __slots__ = ("_logger",)

    def __init__(self, logger: logging.Logger) -> None:
        self._logger = logger

    def enabled(self, level: int) -> bool:
        """Whether a level is logged at all. Raises: nothing."""
        return self._logger.isEnabledFor(level)

    def debug(self, message: str, **fields: Any) -> None:
        """Detail for developers. Raises: nothing."""
        self._write(logging.DEBUG, message, fields)

    def info(self, message: str, **fields: Any) -> None:
        """What an operator may want to know. Raises: nothing."""
        self._write(logging.INFO, message, fields)

    def warn(self, message: str, **fields: Any) -> None:
        """What an operator should look at. Raises: nothing."""
        self._write(logging.WARNING, message, fields)

    def error(self, message: str, **fields: Any) -> None:
        """What failed. Raises: nothing."""
        self._write(logging.ERROR, message, fields)

    def exception(self, message: str, **fields: Any) -> None:
        """What failed, with the exception being handled. Raises: nothing."""
        self._write(logging.ERROR, message, fields, with_exception=True)

    def fatal(self, message: str, **fields: Any) -> None:
        """What ends the process; this call itself ends nothing. Raises: nothing."""
        self._write(logging.CRITICAL, message, fields)

    def _write(
        self,
        level: int,
        message: str,
        fields: dict[str, Any],
        with_exception: bool = False,
    ) -> None:
        if self._logger.isEnabledFor(level):
            self._logger.log(
                level,
                message,
                exc_info=with_exception,
                extra={"fields": fields},
                stacklevel=3,
            )


def get(name: str) -> Log:
    """The log of a module. Raises: nothing."""
    return Log(logging.getLogger(name))


class Rotation(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """etcd's rotation settings; ``maxage``, ``localtime``, ``compress`` do nothing."""

    maxsize: int = 100
    """Size in MiB at which a file is rotated."""
    maxage: int = 0
    maxbackups: int = 0
    """Files kept; 0 keeps all."""
    localtime: bool = False
    compress: bool = False


def parse_rotation(text: str) -> Rotation:
    """The rotation that a JSON text describes.

    Raises:
        ConfigError: it is no JSON object with the known keys.
    """
    try:
        rotation = msgspec.json.decode(text, type=Rotation)
    except (msgspec.DecodeError, msgspec.ValidationError) as exc:
        raise ConfigError(f"log-rotation-config-json: {exc}") from exc
    if rotation.maxsize < 1 or rotation.maxbackups < 0:
        raise ConfigError(
            "log-rotation-config-json: maxsize must be at least 1 and maxbackups 0"
        )
    return rotation


class JsonFormatter(logging.Formatter):
    """One JSON object a line, keys in zap's order."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "level": level_name(record.levelno),
            "ts": timestamp(record.created),
            "logger": record.name,
            "caller": caller(record),
            "msg": record.getMessage(),
        }
        for key, value in fields_of(record).items():
            line[f"{key}_" if key in line else key] = value
        if record.exc_info:
            line["stacktrace"] = self.formatException(record.exc_info)
        return to_json(line)


class ConsoleFormatter(logging.Formatter):
    """Tab-separated text: time, level, logger, caller, message, fields."""

    def format(self, record: logging.LogRecord) -> str:
        parts = [
            timestamp(record.created),
            level_name(record.levelno),
            record.name,
            caller(record),
            record.getMessage(),
        ]
        fields = fields_of(record)
        if fields:
            parts.append(to_json(fields))
        text = "\t".join(parts)
        if record.exc_info:
            text += "\n" + self.formatException(record.exc_info)
        return text


def fields_of(record: logging.LogRecord) -> dict[str, Any]:
    """The fields of a record, empty for a record of other code. Raises: nothing."""
    fields = getattr(record, "fields", None)
    return fields if isinstance(fields, dict) else {}


def to_json(value: dict[str, Any]) -> str:
    """JSON of anything: what JSON does not know is written as text. Raises: nothing."""
    try:
        return msgspec.json.encode(value, enc_hook=str).decode()
    except (TypeError, ValueError, RecursionError, UnicodeError):
        plain = {str(key): ascii(item) for key, item in value.items()}
        return msgspec.json.encode(plain).decode()


def level_name(number: int) -> str:
    """etcd's word for a level. Raises: nothing."""
    return _NAMES.get(number) or logging.getLevelName(number).lower()


def timestamp(seconds: float) -> str:
    """UTC with microseconds, as etcd 3.6 writes it. Raises: nothing."""
    moment = datetime.fromtimestamp(seconds, UTC)
    return moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def caller(record: logging.LogRecord) -> str:
    """Folder, file and line, as zap writes it. Raises: nothing."""
    path = Path(record.pathname)
    return f"{path.parent.name}/{path.name}:{record.lineno}"


class LogSetup(Closing):
    """The handlers of a running process; closing puts the old ones back."""

    def __init__(self, handlers: Sequence[logging.Handler], level: int) -> None:
        root = logging.getLogger()
        self._old_level = root.level
        self._old_handlers = list(root.handlers)
        self._handlers = list(handlers)
        for handler in self._old_handlers:
            root.removeHandler(handler)
        for handler in self._handlers:
            root.addHandler(handler)
        root.setLevel(level)

    def close(self) -> None:
        """Close files and restore what was there before. Raises: nothing."""
        root = logging.getLogger()
        for handler in self._handlers:
            root.removeHandler(handler)
            handler.close()
        self._handlers = []
        for handler in self._old_handlers:
            root.addHandler(handler)
        self._old_handlers = []
        root.setLevel(self._old_level)


def setup(
    level: str = "info",
    form: str = "json",
    outputs: Sequence[str] = ("default",),
    rotation: Rotation | None = None,
) -> LogSetup:
    """Send all logs of the process to the outputs.

    Raises:
        ConfigError: an unknown level or form, a file that cannot be opened, or rotation
            without exactly one file.
    """
    if level not in LEVELS:
        raise ConfigError(f"log-level: {level!r} is none of {', '.join(LEVELS)}")
    if form not in ("json", "console"):
        raise ConfigError(f"log-format: {form!r} is neither json nor console")
    files = [output for output in outputs if output not in _STREAMS]
    if rotation is not None and (len(files) != 1 or len(outputs) != 1):
        raise ConfigError(
            "enable-log-rotation needs exactly one output, a file: log-outputs=PATH"
        )
    handlers: list[logging.Handler] = []
    formatter = JsonFormatter() if form == "json" else ConsoleFormatter()
    try:
        for output in dict.fromkeys(_stream_name(output) for output in outputs):
            handlers.append(_handler(output, rotation))
            handlers[-1].setFormatter(formatter)
    except ConfigError:
        for handler in handlers:
            handler.close()
        raise
    return LogSetup(handlers, LEVELS[level])


def _stream_name(output: str) -> str:
    """Under systemd what is written to stderr goes to the journal."""
    return "stderr" if output in ("default", "systemd/journal") else output


def _handler(output: str, rotation: Rotation | None) -> logging.Handler:
    if output == "stderr":
        return logging.StreamHandler(sys.stderr)
    if output == "stdout":
        return logging.StreamHandler(sys.stdout)
    try:
        if rotation is None:
            return logging.FileHandler(output, encoding="utf-8")
        return RotatingFileHandler(
            output,
            maxBytes=rotation.maxsize * 1024 * 1024,
            backupCount=rotation.maxbackups or _ROTATED_FILES_MAX,
            encoding="utf-8",
        )
    except OSError as exc:
        reason = exc.strerror or str(exc)
        raise ConfigError(f"log-outputs: {output} cannot be opened: {reason}") from exc
