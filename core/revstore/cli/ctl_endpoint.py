"""``revstore ctl endpoint``: each endpoint for itself, also those that are down."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import click

from revstore.api import errors
from revstore.cli import output
from revstore.cli.ctl_run import Session, command
from revstore.cli.ctl_show import size_text
from revstore.client.caller import CallOptions
from revstore.client.methods import RANGE
from revstore.client.values import Status
from revstore.embedded.values import HashAnswer
from revstore.errors import ApiError, RevstoreError
from revstore.proto import rpc_pb2

Answer = TypeVar("Answer")

HEALTH_KEY = b"health"
"""The key that etcdctl reads to see whether a member can."""

_of_cluster = click.option(
    "--cluster", is_flag=True, help="All members, not only the endpoints given."
)


@click.group(help="Status, health and checksum of endpoints.")
def endpoint() -> None:
    """The group."""


async def _ask_all(
    session: Session, of_cluster: bool, ask: Callable[[str], Awaitable[Answer]]
) -> list[tuple[str, Answer | RevstoreError]]:
    """The answer of each endpoint, or why there is none; all at the same time."""
    urls = await session.endpoints(of_cluster)
    session.client.use_endpoints(urls)

    async def one(url: str) -> Answer | RevstoreError:
        try:
            return await ask(url)
        except RevstoreError as error:
            return error

    return list(zip(urls, await asyncio.gather(*map(one, urls)), strict=True))


def _code(answers: list[tuple[str, Any]]) -> int:
    failed = any(isinstance(answer, RevstoreError) for _, answer in answers)
    return output.FAILURE if failed else output.OK


def _tell_failures(answers: list[tuple[str, Any]]) -> None:
    for url, answer in answers:
        if isinstance(answer, RevstoreError):
            output.error(f"{url}: {_reason(url, answer)}")


def _reason(url: str, error: RevstoreError) -> str:
    return str(error).removeprefix(f"cannot connect to {url}: ")


@command(endpoint, "status", wait=False)
@_of_cluster
async def status(session: Session, cluster: bool) -> int:
    """Version, size, leader and place in the log; exit code 1 if one is down."""
    ask = session.client.maintenance.status
    answers = await _ask_all(session, cluster, ask)
    rows = [_row(url, a) for url, a in answers if isinstance(a, Status)]
    header = (
        "ENDPOINT",
        "ID",
        "VERSION",
        "DB SIZE",
        "IN USE",
        "ROLE",
        "TERM",
        "INDEX",
        "APPLIED",
        "REVISION",
        "ERRORS",
    )
    session.show([_document(url, a) for url, a in answers], header, rows)
    if not session.flags.as_json:
        _tell_failures(answers)
    return _code(answers)


def _role(found: Status) -> str:
    if found.is_leader:
        return "leader"
    if found.is_learner:
        return "learner"
    return "follower" if found.leader else "no leader"


def _row(url: str, found: Status) -> tuple[str, ...]:
    return (
        url,
        f"{found.member_id:x}",
        found.version,
        size_text(found.db_size),
        size_text(found.db_size_in_use),
        _role(found),
        str(found.raft_term),
        str(found.raft_index),
        str(found.raft_applied_index),
        str(found.revision),
        ", ".join(found.errors) or "-",
    )


def _document(url: str, answer: Status | RevstoreError) -> dict[str, Any]:
    if isinstance(answer, RevstoreError):
        return {"endpoint": url, "error": _reason(url, answer)}
    return {
        "endpoint": url,
        "member_id": f"{answer.member_id:x}",
        "version": answer.version,
        "storage_version": answer.storage_version,
        "db_size": answer.db_size,
        "db_size_in_use": answer.db_size_in_use,
        "db_size_quota": answer.db_size_quota,
        "leader": f"{answer.leader:x}" if answer.leader else "",
        "is_leader": answer.is_leader,
        "is_learner": answer.is_learner,
        "raft_term": answer.raft_term,
        "raft_index": answer.raft_index,
        "raft_applied_index": answer.raft_applied_index,
        "revision": answer.revision,
        "errors": list(answer.errors),
    }


@command(endpoint, "health", wait=False)
@_of_cluster
async def health(session: Session, cluster: bool) -> int:
    """Whether each endpoint can serve; exit code 1 if one cannot.

    A member is healthy if a linearizable read through it succeeds and no alarm is on.
    """

    async def ask(url: str) -> float:
        return await _check(session, url)

    answers = await _ask_all(session, cluster, ask)
    if session.flags.as_json:
        output.json(
            [
                {"endpoint": url, "healthy": False, "error": _reason(url, answer)}
                if isinstance(answer, RevstoreError)
                else {"endpoint": url, "healthy": True, "took_s": round(answer, 6)}
                for url, answer in answers
            ]
        )
        return _code(answers)
    rows = [
        (url, "unhealthy", "-", _reason(url, answer))
        if isinstance(answer, RevstoreError)
        else (url, "healthy", f"{answer * 1000:.1f} ms", "-")
        for url, answer in answers
    ]
    output.table(("ENDPOINT", "HEALTH", "TOOK", "ERROR"), rows)
    return _code(answers)


async def _check(session: Session, url: str) -> float:
    """Seconds that a linearizable read took. Raises: RevstoreError: unhealthy."""
    client = session.client
    options = CallOptions(timeout_s=session.flags.command_timeout_s)
    begin = time.monotonic()
    try:
        request = rpc_pb2.RangeRequest(key=HEALTH_KEY)
        await client.call_at(url, RANGE, request, options)
    except ApiError as error:
        # Whoever refuses a user has agreed with the others who may do what.
        if error != errors.PERMISSION_DENIED:
            raise
    took = time.monotonic() - begin
    found = await client.maintenance.status(url)
    alarms = [one for one in found.errors if "alarm" in one]
    if alarms:
        raise ApiError(errors.Code.RESOURCE_EXHAUSTED, f"alarm: {', '.join(alarms)}")
    return took


@command(endpoint, "hashkv", wait=False)
@_of_cluster
@click.option("--rev", default=0, help="Up to this revision; 0 is what each has.")
async def hashkv(session: Session, cluster: bool, rev: int) -> int:
    """Checksum of the history; exit code 1 if members differ or one is down."""

    async def ask(url: str) -> HashAnswer:
        return await session.client.maintenance.hash_kv(rev, url)

    answers = await _ask_all(session, cluster, ask)
    found = [(url, a) for url, a in answers if isinstance(a, HashAnswer)]
    document = [
        {
            "endpoint": url,
            "hash": a.hash,
            "revision": a.revision,
            "compact_revision": a.compact_revision,
        }
        if isinstance(a, HashAnswer)
        else {"endpoint": url, "error": _reason(url, a)}
        for url, a in answers
    ]
    rows = [
        (u, str(a.hash), str(a.revision), str(a.compact_revision)) for u, a in found
    ]
    session.show(document, ("ENDPOINT", "HASH", "REVISION", "COMPACTED"), rows)
    if not session.flags.as_json:
        _tell_failures(answers)
    by_place: dict[tuple[int, int], set[int]] = {}
    for _, a in found:
        by_place.setdefault((a.revision, a.compact_revision), set()).add(a.hash)
    if any(len(hashes) > 1 for hashes in by_place.values()):
        output.error(
            "members differ at the same revision: the data of one is damaged; "
            "do not write, and compare it with a snapshot"
        )
        return output.FAILURE
    return _code(answers)
