"""``revstore ctl get, put, del, compaction, watch``."""

from __future__ import annotations

import json
import sys
from typing import Any

import click

from revstore.cli import output
from revstore.cli.ctl_keys import key_arguments, span_of
from revstore.cli.ctl_run import Session, command
from revstore.cli.ctl_show import fields_of, lease_id, pair_fields, print_pair, text_of
from revstore.client.watch import AsyncWatcher
from revstore.embedded.values import KeyValue, WatchEvent
from revstore.errors import UsageError


def _span(
    key: str, range_end: str | None, prefix: bool, from_key: bool
) -> dict[str, Any]:
    """As ``span_of``; from the empty key on are all, and no key is empty."""
    span = span_of(key, range_end, prefix, from_key)
    if not key and from_key:
        span["key"] = b"\x00"
    elif not key and not prefix and range_end is None:
        raise UsageError("a key must not be empty; --prefix '' is every key")
    return span


@command(name="get")
@key_arguments
@click.option("--rev", default=0, help="At this revision; 0 is now.")
@click.option("--limit", default=0, help="At most so many.")
@click.option(
    "--order",
    type=click.Choice(["ascend", "descend"], case_sensitive=False),
    default="ascend",
    help="By key.",
)
@click.option("--keys-only", is_flag=True, help="Print the keys alone.")
@click.option("--count-only", is_flag=True, help="Print how many there are.")
@click.option("--print-value-only", is_flag=True, help="Print the values alone.")
@click.option(
    "--consistency",
    type=click.Choice(["l", "s"]),
    default="l",
    help="l: linearizable; s: what one member has, which may be old.",
)
async def get(session: Session, key: str, range_end: str | None, **how: Any) -> None:
    """Read a key, the keys from KEY up to RANGE_END, or a prefix."""
    span = _span(key, range_end, how["prefix"], how["from_key"])
    one = "key" in span and span["end"] is None
    client, serializable = session.client, how["consistency"] == "s"
    if how["count_only"]:
        if one:
            span["end"] = key + "\x00"
        count = await client.count(
            **span, revision=how["rev"], serializable=serializable
        )
        session.tell({"count": count}, str(count))
        return
    pairs: list[KeyValue] = []
    if one:
        found = await client.get(key, revision=how["rev"], serializable=serializable)
        pairs = [] if found is None else [found]
    else:
        rows = client.range(
            **span,
            revision=how["rev"],
            limit=how["limit"],
            reverse=how["order"].lower() == "descend",
            keys_only=how["keys_only"],
            serializable=serializable,
        )
        if not (session.flags.as_json or session.flags.as_table):
            # A big range is printed while it comes.
            async for pair in rows:
                _print(pair, how)
            return
        pairs = [pair async for pair in rows]
    if session.flags.as_json:
        document = [pair_fields(pair) for pair in pairs]
        output.json({"revision": client.revision, "pairs": document})
    elif session.flags.as_table:
        _table(pairs)
    else:
        for pair in pairs:
            _print(pair, how)


def _print(pair: KeyValue, how: dict[str, Any]) -> None:
    if how["keys_only"]:
        output.line(text_of(pair.key))
    else:
        print_pair(pair, values_only=how["print_value_only"])


def _table(pairs: list[KeyValue]) -> None:
    header = ("KEY", "VALUE", "CREATED", "CHANGED", "VERSION", "LEASE")
    rows = [
        (
            text_of(pair.key),
            text_of(pair.value),
            str(pair.create_revision),
            str(pair.mod_revision),
            str(pair.version),
            f"{pair.lease:x}" if pair.lease else "-",
        )
        for pair in pairs
    ]
    output.table(header, rows)


@command(name="put")
@click.argument("key")
@click.argument("value", required=False)
@click.option("--lease", default="0", help="Id of a lease, in hexadecimal.")
@click.option("--prev-kv", is_flag=True, help="Print the pair before.")
async def put(
    session: Session, key: str, value: str | None, lease: str, prev_kv: bool
) -> None:
    """Set KEY to VALUE, or to what comes on standard input."""
    content = sys.stdin.buffer.read() if value is None else value.encode()
    result = await session.client.put(
        key, content, lease=lease_id(lease), prev_kv=prev_kv
    )
    if session.flags.as_json:
        prev = pair_fields(result.prev) if result.prev else None
        output.json({"revision": result.revision, "prev": prev})
        return
    output.line("OK")
    if result.prev is not None:
        print_pair(result.prev)


@command(name="del")
@key_arguments
@click.option("--prev-kv", is_flag=True, help="Print what is deleted.")
async def delete(
    session: Session,
    key: str,
    range_end: str | None,
    prefix: bool,
    from_key: bool,
    prev_kv: bool,
) -> None:
    """Delete a key, the keys from KEY up to RANGE_END, or a prefix."""
    span = _span(key, range_end, prefix, from_key)
    result = await session.client.delete(**span, prev_kv=prev_kv)
    if session.flags.as_json:
        document = [pair_fields(pair) for pair in result.prev]
        output.json(
            {"revision": result.revision, "deleted": result.deleted, "prev": document}
        )
        return
    output.line(str(result.deleted))
    for pair in result.prev:
        print_pair(pair)


@command(name="compaction")
@click.argument("revision", type=int)
@click.option("--physical", is_flag=True, help="Wait until the space is free.")
async def compaction(session: Session, revision: int, physical: bool) -> None:
    """Forget the history before REVISION."""
    await session.client.compact(revision, physical=physical)
    session.tell({"compacted": revision}, f"compacted revision {revision}")


@command(name="watch", unbounded=True)
@key_arguments
@click.option("--rev", default=0, help="Begin with this revision; 0 is now.")
@click.option("--prev-kv", is_flag=True, help="Print the pair before each change.")
@click.option(
    "--progress-notify", is_flag=True, help="Tell now and then how far it is."
)
@click.option("--events", default=0, help="End after so many; 0 never ends.")
async def watch(session: Session, key: str, range_end: str | None, **how: Any) -> None:
    """Print the changes of a key, of KEY up to RANGE_END, or of a prefix.

    Goes on over failed members without losing or repeating a change. With
    --output json each change is one line.
    """
    span = _span(key, range_end, how["prefix"], how["from_key"])
    watcher = session.client.watch(
        **span,
        start_revision=how["rev"],
        prev_kv=how["prev_kv"],
        progress=how["progress_notify"],
    )
    async with watcher:
        await _print_changes(session, watcher, how["events"])


async def _print_changes(session: Session, watcher: AsyncWatcher, limit: int) -> None:
    count = 0
    while (batch := await watcher.next_batch()) is not None:
        if not batch.events:
            _print_progress(session, batch.revision)
        for event in batch.events:
            _print_event(session, event)
            count += 1
            if count == limit:
                return


def _print_progress(session: Session, revision: int) -> None:
    if session.flags.as_json:
        output.line(json.dumps({"type": "progress", "revision": revision}))
    else:
        output.line(f"progress notify: {revision}")


def _print_event(session: Session, event: WatchEvent) -> None:
    if session.flags.as_json:
        document: dict[str, Any] = {
            "type": str(event.type),
            "revision": event.revision,
            **fields_of("key", event.key),
            **fields_of("value", event.value),
        }
        if event.prev is not None:
            document["prev"] = pair_fields(event.prev)
        output.line(json.dumps(document))
        return
    output.line(event.type.upper())
    if event.prev is not None:
        print_pair(event.prev)
    print_pair(event.kv)
