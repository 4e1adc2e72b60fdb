"""Checks of the contract between members, clause by clause (P-01 to P-15).

Each check starts members of its own on the transport under test. Use::

    @pytest.mark.parametrize("check", CHECKS, ids=name_of)
    def test_contract(check):
        run(check, harness)

The same cases run over every transport; see ``Harness`` for what one has to offer.
"""

from __future__ import annotations

import asyncio
from functools import partial

import pytest

from revstore.errors import ConfigError, TransportError
from revstore.interfaces.peers import QUESTION_BYTES_MAX, Lane, LaneLimits
from revstore_conformance.peers_harness import (
    LOST_HERE,
    PATIENCE_S,
    Check,
    Cluster,
    Harness,
    body_of,
    captured_logs,
    name_of,
    run,
    said,
)
from revstore_conformance.peers_streams import STREAM_CHECKS

CLUSTER = 0xC1
OTHER_CLUSTER = 0xC2
EVERY_LANE = tuple(Lane)


async def check_p01_order_and_content(cluster: Cluster) -> None:
    """P-01: messages of a lane arrive in order and unchanged, whatever their size."""
    one, two = await cluster.pair()
    sizes = [0, 1, 100, 65_535, 65_536, 65_537, 3, 700_000, 0, 200_001]
    sent = [body_of(number, size) for number, size in enumerate(sizes)]
    for lane in EVERY_LANE:
        for payload in sent:
            assert one.peers.send(2, lane, payload)
    await cluster.until(
        lambda: all(len(two.payloads(lane)) == len(sent) for lane in EVERY_LANE),
        "all messages",
    )
    for lane in EVERY_LANE:
        assert two.payloads(lane) == sent, lane
    assert {sender for sender, _, _ in two.messages} == {1}


async def check_p01_addressed(cluster: Cluster) -> None:
    """P-01: a message arrives at the member it was sent to and at no other."""
    one = await cluster.start(1)
    others = [await cluster.start(member) for member in (2, 3)]
    cluster.introduce()
    for number in range(20):
        for other in others:
            text = b"%d for %d" % (number, other.member)
            assert one.peers.send(other.member, Lane.CONTROL, text)
    for other in others:
        await cluster.until(lambda o=other: len(o.messages) == 20, "20 messages")  # type: ignore[misc] # mypy cannot infer a lambda's default
        expected = [b"%d for %d" % (number, other.member) for number in range(20)]
        assert other.payloads(Lane.CONTROL) == expected


async def check_p02_unknown_member(cluster: Cluster) -> None:
    """P-02, P-03: a message for an unknown member is dropped, said and counted."""
    one = await cluster.start(1)
    assert one.peers.send(9, Lane.CONTROL, b"x") is False
    await cluster.until(lambda: one.unreachable == [9], "on_unreachable")


async def check_p03_bound_of_messages(cluster: Cluster) -> None:
    """P-03: beyond its bound a lane drops, and the other lanes do not notice."""
    small = LaneLimits(messages_max=8, bytes_max=1_000_000)
    one, two = await cluster.pair(limits=(small, small, small))
    await cluster.reach(one, two)
    two.messages.clear()
    taken = [one.peers.send(2, Lane.LOG, b"%d" % number) for number in range(20)]
    assert one.peers.send(2, Lane.CONTROL, b"still")
    assert taken == [True] * 8 + [False] * 12
    await cluster.until(lambda: len(two.messages) == 9, "what was taken")
    assert two.payloads(Lane.LOG) == [b"%d" % number for number in range(8)]
    assert two.payloads(Lane.CONTROL) == [b"still"]
    await cluster.until(lambda: 2 in one.unreachable, "on_unreachable")
    assert one.peers.stats(2).dropped_messages >= 12
    assert one.peers.send(2, Lane.LOG, b"again")
    await cluster.until(lambda: two.payloads(Lane.LOG)[-1] == b"again", "room again")


async def check_p03_bound_of_bytes(cluster: Cluster) -> None:
    """P-03: a lane is bounded in bytes; one message larger than that still passes."""
    small = LaneLimits(messages_max=1000, bytes_max=10_000)
    one, two = await cluster.pair(limits=(small, small, small))
    await cluster.reach(one, two)
    two.messages.clear()
    taken = [one.peers.send(2, Lane.LOG, bytes(4000)) for _ in range(5)]
    assert taken[0]
    assert not taken[-1]
    count = sum(taken)
    await cluster.until(lambda: len(two.messages) == count, "what was taken")
    await cluster.until(lambda: one.peers.send(2, Lane.LOG, bytes(50_000)), "room")
    await cluster.until(lambda: len(two.messages) == count + 1, "the large one")


async def check_p03_nobody_there(cluster: Cluster) -> None:
    """P-03, P-04: what is sent to a member that cannot be reached is dropped and
    reported, and does not pile up."""
    one = await cluster.start(1)
    two = await cluster.start(2)
    one.peers.set_peer(2, two.peers.addresses())
    await two.peers.close()
    await cluster.until(
        lambda: not one.peers.send(2, Lane.CONTROL, b"x"), "the first drop"
    )
    await cluster.until(lambda: 2 in one.unreachable, "on_unreachable")
    assert not one.peers.stats(2).connected


async def check_p04_broken_connection(cluster: Cluster) -> None:
    """P-04: a connection that breaks is reported though nothing was sent."""
    one, two = await cluster.pair()
    await cluster.reach(one, two)
    one.unreachable.clear()
    await two.peers.close()
    await cluster.until(lambda: 2 in one.unreachable, "on_unreachable")
    await cluster.until(lambda: not one.peers.stats(2).connected, "disconnected")
    assert one.peers.stats(2).send_failures >= 1


async def check_p06_comes_back(cluster: Cluster) -> None:
    """P-06: a member that comes back at its address is reached again."""
    one, two = await cluster.pair()
    await cluster.reach(one, two)
    urls = two.peers.addresses()
    await two.peers.close()
    await cluster.until(lambda: not one.peers.stats(2).connected, "the break")
    again = await cluster.start(2, urls=urls)
    await cluster.reach(one, again)


async def check_p06_called_back_at_once(cluster: Cluster) -> None:
    """P-06: whoever calls is called back at once, however long the pause still is."""
    one = await cluster.start(1, retry_min_s=5000.0, retry_max_s=10_000.0)
    two = await cluster.start(2)
    urls = two.peers.addresses()
    await two.peers.close()
    one.peers.set_peer(2, urls)
    await cluster.until(lambda: 2 in one.unreachable, "a failed attempt")
    again = await cluster.start(2, urls=urls)
    again.peers.set_peer(1, one.peers.addresses())
    await cluster.reach(one, again)


async def check_p07_wrong_cluster(cluster: Cluster) -> None:
    """P-07: a member of another cluster is refused, both sides say so, and nothing
    passes either way."""
    one = await cluster.start(1)
    stranger = await cluster.start(2, cluster_id=OTHER_CLUSTER)
    with captured_logs() as lines:
        cluster.introduce()
        await cluster.until(lambda: bool(one.refused and stranger.refused), "refusals")
    member, reason = one.refused[0]
    assert member == 2
    assert "cluster id mismatch" in reason
    assert f"{CLUSTER:x}" in reason
    assert f"{OTHER_CLUSTER:x}" in reason
    assert said(lines, "refused a member", "cluster id mismatch")
    one.peers.send(2, Lane.CONTROL, b"x")
    stranger.peers.send(1, Lane.CONTROL, b"x")
    await cluster.settle()
    assert not one.messages
    assert not stranger.messages


async def check_p07_wrong_member(cluster: Cluster) -> None:
    """P-07: a call that reaches another member than it is for is refused."""
    one = await cluster.start(1)
    three = await cluster.start(3)
    with captured_logs() as lines:
        one.peers.set_peer(2, three.peers.addresses())
        await cluster.until(lambda: bool(one.refused), "the refusal")
    assert one.refused[0][0] == 2
    assert "member id mismatch" in one.refused[0][1]
    assert said(lines, "refused a member", "member id mismatch")
    assert not three.messages


async def check_p07_does_not_disturb(cluster: Cluster) -> None:
    """P-07: refusing a stranger disturbs nobody else."""
    one, two = await cluster.pair()
    await cluster.reach(one, two)
    stranger = await cluster.start(3, cluster_id=OTHER_CLUSTER)
    stranger.peers.set_peer(1, one.peers.addresses())
    await cluster.until(lambda: bool(stranger.refused), "the refusal")
    await cluster.reach(one, two)
    assert one.unreachable == []


async def check_p08_admit(cluster: Cluster) -> None:
    """P-08: a member that ``admit`` turns away is told the reason, and let in later."""
    one = await cluster.start(1)
    two = await cluster.start(2)
    two.turn_away[1] = "you were removed"
    one.peers.set_peer(2, two.peers.addresses())
    await cluster.until(lambda: bool(one.refused), "the refusal")
    assert one.refused[0] == (2, "you were removed")
    two.turn_away.clear()
    await cluster.reach(one, two)


async def check_p11_moved(cluster: Cluster) -> None:
    """P-11: a member that moves is reached at its new address."""
    one, two = await cluster.pair()
    await cluster.reach(one, two)
    await two.peers.close()
    moved = await cluster.start(2)
    assert list(moved.peers.addresses()) != list(two.peers.addresses())
    one.peers.set_peer(2, moved.peers.addresses())
    await cluster.reach(one, moved)


async def check_p11_same_address(cluster: Cluster) -> None:
    """P-11: the same addresses again change nothing."""
    one, two = await cluster.pair()
    await cluster.reach(one, two)
    one.unreachable.clear()
    one.peers.set_peer(2, two.peers.addresses())
    assert one.peers.stats(2).connected
    await cluster.reach(one, two)
    assert one.unreachable == []


async def check_p11_several_addresses(cluster: Cluster) -> None:
    """P-11: of several addresses one that answers is enough."""
    one = await cluster.start(1)
    gone = await cluster.start(2)
    await gone.peers.close()
    two = await cluster.start(2)
    one.peers.set_peer(2, [*gone.peers.addresses(), *two.peers.addresses()])
    await cluster.reach(one, two)


async def check_p11_removed(cluster: Cluster) -> None:
    """P-11: nothing passes to or from a member that was removed; it hears of it, and
    it may be added again."""
    one, two = await cluster.pair()
    await cluster.reach(one, two)
    await cluster.reach(two, one)
    one.peers.remove_peer(2)
    assert one.peers.send(2, Lane.CONTROL, b"x") is False
    await cluster.until(lambda: bool(two.refused), "the refusal")
    assert two.refused[0][0] == 1
    assert "removed" in two.refused[0][1]
    one.messages.clear()
    two.messages.clear()
    # Longer than the longest pause, so that attempts to come back are seen to fail.
    for _ in range(3):
        two.peers.send(1, Lane.CONTROL, b"into the void")
        await cluster.settle()
    assert not one.messages
    assert not two.messages
    one.peers.remove_peer(2)
    one.peers.set_peer(2, two.peers.addresses())
    await cluster.reach(one, two)
    await cluster.reach(two, one)


async def check_p11_bad_addresses(cluster: Cluster) -> None:
    """P-11: no address, or one of no known form, is refused and changes nothing."""
    one, two = await cluster.pair()
    await cluster.reach(one, two)
    for urls in ([], ["nothing like a URL"]):
        with pytest.raises(ConfigError):
            one.peers.set_peer(2, urls)
    await cluster.reach(one, two)


async def check_p12_closed(cluster: Cluster) -> None:
    """P-12: after ``close`` there are no callbacks and no tasks; closing again is
    allowed."""
    tasks = asyncio.all_tasks()
    one, two = await cluster.pair()
    await cluster.reach(one, two)
    for number in range(100):
        two.peers.send(1, Lane.CONTROL, b"%d" % number)
    await one.peers.close()
    before = one.callbacks
    await one.peers.close()
    await two.peers.close()
    await cluster.settle()
    assert one.callbacks == before
    assert one.peers.send(2, Lane.CONTROL, b"x") is False
    assert asyncio.all_tasks() <= tasks


async def check_p12_address_is_free(cluster: Cluster) -> None:
    """P-12: after ``close`` the address can be used again; before, it cannot."""
    one = await cluster.start(1)
    urls = one.peers.addresses()
    with pytest.raises(ConfigError) as caught:
        await cluster.start(2, urls=urls)
    assert urls[0] in str(caught.value)
    await one.peers.close()
    await cluster.start(2, urls=urls)


async def check_p13_garbage(cluster: Cluster) -> None:
    """P-13: garbage is refused, each time with a log line, and disturbs nobody else."""
    one, two = await cluster.pair()
    await cluster.reach(one, two)
    one.unreachable.clear()
    two.messages.clear()
    for data in (b"\x00" * 64, b"GET / HTTP/1.1\r\n\r\n", bytes(range(256)) * 40):
        with captured_logs() as lines:
            await cluster.harness.garbage(two.peers.addresses()[0], data)
            found = partial(said, lines, "connection ended", "")
            await cluster.until(found, "a log line")
    await cluster.reach(one, two)
    assert one.unreachable == []


async def check_p13_over_the_limit(cluster: Cluster) -> None:
    """P-13: a message over the limit ends its connection with a log line; others and
    later messages pass."""
    one, two = await cluster.pair(message_bytes_max=100_000)
    await cluster.reach(one, two)
    two.messages.clear()
    with captured_logs() as lines:
        assert one.peers.send(2, Lane.LOG, bytes(100_001))
        await cluster.until(
            lambda: said(lines, "connection ended", "over the limit"), "a log line"
        )
    await cluster.until(lambda: 2 in one.unreachable, "on_unreachable")
    await cluster.reach(one, two)
    await cluster.until(lambda: one.peers.send(2, Lane.LOG, bytes(100_000)), "the lane")
    await cluster.until(lambda: len(two.payloads(Lane.LOG)) == 1, "the lane again")
    assert len(two.payloads(Lane.LOG)[0]) == 100_000


async def check_p14_exceptions(cluster: Cluster) -> None:
    """P-14: a callback that raises is logged and disturbs nothing."""
    one, two = await cluster.pair()
    await cluster.reach(one, two)
    two.messages.clear()
    two.explode = LOST_HERE
    with captured_logs() as lines:
        one.peers.send(2, Lane.CONTROL, LOST_HERE)
        one.peers.send(2, Lane.CONTROL, b"after")
        await cluster.until(
            lambda: two.payloads(Lane.CONTROL) == [LOST_HERE, b"after"],
            "the next message",
        )
    assert any(record.exc_info for record in lines)
    assert two.threads == {cluster.thread}


async def check_p15_question(cluster: Cluster) -> None:
    """P-15: a stranger's question is answered, whatever ids he would have; one beyond
    the bound, and one to nobody, is an error; an exception of the node is no answer."""
    one, two = await cluster.pair()
    url = two.peers.addresses()[0]
    ask = cluster.transport.ask
    two.explode = LOST_HERE
    with captured_logs() as lines:
        assert await ask(url, b"who?", None, PATIENCE_S) == b"2 heard who?"
        assert await ask(url, LOST_HERE, None, PATIENCE_S) == b""
        with pytest.raises(TransportError):
            await ask(url, bytes(QUESTION_BYTES_MAX + 1), None, PATIENCE_S)
    assert any(record.exc_info for record in lines)
    await cluster.reach(one, two)
    await two.peers.close()
    with pytest.raises(TransportError):
        await ask(url, b"who?", None, PATIENCE_S)
    with pytest.raises(ConfigError):
        await ask("gopher://nowhere:1", b"who?", None, PATIENCE_S)


async def check_stats(cluster: Cluster) -> None:
    """Figures count what passed, and a probe gives a round trip time."""
    one, two = await cluster.pair()
    await cluster.reach(one, two)
    before, received = one.peers.stats(2), two.peers.stats(1)
    for _ in range(10):
        one.peers.send(2, Lane.LOG, bytes(100))
    await cluster.until(
        lambda: two.peers.stats(1).received_messages == received.received_messages + 10,
        "ten messages",
    )
    after = one.peers.stats(2)
    assert after.sent_messages == before.sent_messages + 10
    assert after.sent_bytes >= before.sent_bytes + 1000
    assert two.peers.stats(1).received_bytes >= received.received_bytes + 1000
    await cluster.until(
        lambda: one.peers.stats(2).round_trip_s is not None, "a round trip"
    )
    assert one.peers.stats(2).connected
    assert one.peers.stats(77).sent_messages == 0


CHECKS: tuple[Check, ...] = (
    check_p01_order_and_content,
    check_p01_addressed,
    check_p02_unknown_member,
    check_p03_bound_of_messages,
    check_p03_bound_of_bytes,
    check_p03_nobody_there,
    check_p04_broken_connection,
    check_p06_comes_back,
    check_p06_called_back_at_once,
    check_p07_wrong_cluster,
    check_p07_wrong_member,
    check_p07_does_not_disturb,
    check_p08_admit,
    check_p11_moved,
    check_p11_same_address,
    check_p11_several_addresses,
    check_p11_removed,
    check_p11_bad_addresses,
    check_p12_closed,
    check_p12_address_is_free,
    check_p13_garbage,
    check_p13_over_the_limit,
    check_p14_exceptions,
    check_p15_question,
    check_stats,
    *STREAM_CHECKS,
)

__all__ = ["CHECKS", "Check", "Cluster", "Harness", "name_of", "run"]
