"""The machine under the figures: what it is, and what its disk does."""

from __future__ import annotations

import os
import platform
import resource
import time
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from statistics import median

LIBRARIES = ("lmdb", "rocksdict", "grpcio", "protobuf", "msgspec")


def facts(directory: Path) -> Mapping[str, object]:
    """What a reader of the figures must know."""
    return {
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()}",
        "cpu": _cpu_name(),
        "cores": os.cpu_count(),
        "load_average": round(os.getloadavg()[0], 1),
        "file_system": _file_system(directory),
        "fdatasync_us": round(disk_probe(directory), 1),
        "libraries": {name: _version(name) for name in LIBRARIES},
    }


def disk_probe(directory: Path, count: int = 100) -> float:
    """Median microseconds of a 4 KiB write with fdatasync in a preallocated file."""
    with BareFile(directory / "probe", count * 4096) as file:
        block = bytes(4096)
        return median(file.write(block) for _ in range(count))


class BareFile:
    """What a log cannot be faster than: pwrite and fdatasync, preallocated."""

    def __init__(self, path: Path, size: int) -> None:
        self._path = path
        self._handle = os.open(path, os.O_CREAT | os.O_RDWR, 0o600)
        os.posix_fallocate(self._handle, 0, size)
        os.fsync(self._handle)
        self._offset = 0

    def write(self, data: bytes) -> float:
        """Append durably; returns the microseconds it took."""
        begin = time.perf_counter_ns()
        os.pwrite(self._handle, data, self._offset)
        os.fdatasync(self._handle)
        took = time.perf_counter_ns() - begin
        self._offset += len(data)
        return took / 1000

    def __enter__(self) -> BareFile:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._handle)
        self._path.unlink()


def cpu_seconds() -> float:
    """Processor time that this process has used, all its threads together."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def cpu_seconds_of(pid: int) -> float:
    """The same of another process."""
    text = Path(f"/proc/{pid}/stat").read_text()
    fields = text.rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def memory_bytes(field: str, pid: int | str = "self") -> int:
    """A memory figure of a process, such as RssAnon or VmRSS."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    raise LookupError(f"the system does not tell {field}")


def reset_peak(pid: int) -> None:
    """Have VmHWM, the peak of VmRSS, begin anew. Raises: OSError."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")


def _cpu_name() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.machine()


def _file_system(directory: Path) -> str:
    """The type of the file system that holds a directory."""
    best, kind = "", "unknown"
    try:
        mounts = Path("/proc/mounts").read_text().splitlines()
    except OSError:
        return kind
    for line in mounts:
        _, point, name, *_ = line.split()
        inside = str(directory.resolve()).startswith(point.rstrip("/") + "/")
        if inside and len(point) > len(best):
            best, kind = point, name
    return kind


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "absent"
