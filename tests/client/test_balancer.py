"""Whose turn it is, and when an endpoint is probed."""

from __future__ import annotations

from random import Random

import pytest

from revstore.client.balancer import Balancer, BalancerLimits, Health

URLS = ("a", "b", "c")
LIMITS = BalancerLimits(jitter=0.0)


def make(*healthy: str, limping: tuple[str, ...] = ()) -> Balancer:
    """A balancer over three endpoints that were probed at 0."""
    balancer = Balancer(URLS, 0.0, Random(1), LIMITS)
    assert set(balancer.begin_probes(0.0)) == set(URLS)
    for url in URLS:
        health = Health.HEALTHY if url in healthy else Health.DOWN
        balancer.probed(url, Health.LIMPING if url in limping else health, 0.0)
    return balancer


def test_healthy_endpoints_take_turns() -> None:
    """Six calls over three healthy endpoints: two for each."""
    balancer = make("a", "b", "c")
    picked = [balancer.pick() for _ in range(6)]
    assert sorted(map(str, picked)) == ["a", "a", "b", "b", "c", "c"]


def test_nothing_is_picked_before_a_probe() -> None:
    """An endpoint that nobody has reached yet gets no call."""
    assert Balancer(URLS, 0.0, Random(1)).pick() is None


def test_limping_ones_are_for_need() -> None:
    """A limping endpoint is used only when none is healthy, one that is down never."""
    balancer = make("a", limping=("b",))
    assert {balancer.pick() for _ in range(9)} == {"a"}
    balancer.failed("a", 1.0)
    assert {balancer.pick() for _ in range(9)} == {"b"}
    balancer.failed("b", 1.0)
    assert balancer.pick() is None


def test_tried_ones_are_avoided_while_there_are_others() -> None:
    """A repeated call goes to an endpoint that has not failed it, a limping one at last."""
    balancer = make("a", "b", limping=("c",))
    assert {balancer.pick({"a"}) for _ in range(4)} == {"b"}
    assert {balancer.pick({"a", "b"}) for _ in range(4)} == {"c"}
    assert {balancer.pick({"a", "b", "c"}) for _ in range(4)} == {"a", "b"}


def test_pauses_between_probes_double_up_to_a_bound() -> None:
    """Of an endpoint that stays down, until it answers; then they begin anew."""
    balancer = make("b", "c")
    now, pauses = 0.0, []
    for _ in range(8):
        while "a" not in balancer.begin_probes(now):
            for url in ("b", "c"):
                balancer.probed(url, Health.HEALTHY, now)
            step = balancer.next_probe()
            assert step is not None
            assert step > now
            now = step
        pauses.append(now)
        balancer.probed("a", Health.DOWN, now)
    steps = [round(b - a, 3) for a, b in zip([0.0, *pauses], pauses, strict=False)]
    assert steps == [0.05, 0.1, 0.2, 0.4, 0.8, 1.0, 1.0, 1.0]


def test_a_failed_call_has_its_endpoint_probed_soon() -> None:
    """The pause after the first failure is the shortest one, and failures that follow
    while it is down do not push it away."""
    balancer = make(*URLS)
    balancer.failed("a", 1.0)
    balancer.failed("a", 1.04)
    assert balancer.begin_probes(1.049) == []
    assert balancer.begin_probes(1.051) == ["a"]


def test_a_probe_under_way_is_not_made_twice() -> None:
    """Nothing is due for an endpoint until its probe has ended."""
    balancer = Balancer(("a",), 0.0, Random(1), LIMITS)
    assert balancer.begin_probes(0.0) == ["a"]
    assert balancer.begin_probes(99.0) == []
    assert balancer.next_probe() is None
    balancer.probed("a", Health.HEALTHY, 100.0)
    assert balancer.next_probe() == 100.0 + LIMITS.healthy_s


def test_a_suspect_is_probed_at_once_and_used_meanwhile() -> None:
    """A call without an answer is a hint, not a proof."""
    balancer = make(*URLS)
    balancer.suspect("b", 0.5)
    assert balancer.begin_probes(0.5) == ["b"]
    assert balancer.health("b") is Health.HEALTHY


def test_replaced_endpoints_keep_what_is_known() -> None:
    """Those that stay keep their health; new ones are probed; late news of others is
    nothing."""
    balancer = make(*URLS)
    balancer.replace(("b", "d"), 2.0)
    assert balancer.urls == ("b", "d")
    assert {balancer.pick() for _ in range(4)} == {"b"}
    assert balancer.begin_probes(2.0) == ["d"]
    balancer.probed("a", Health.HEALTHY, 2.0)
    balancer.failed("c", 2.0)
    assert balancer.health("a") is Health.DOWN


@pytest.mark.parametrize("seed", range(5))
def test_clients_do_not_come_back_together(seed: int) -> None:
    """Pauses are spread by the jitter, within its bound."""
    balancer = Balancer(URLS, 0.0, Random(seed), BalancerLimits(healthy_s=10.0))
    balancer.begin_probes(0.0)
    for url in URLS:
        balancer.probed(url, Health.HEALTHY, 0.0)
    first = balancer.next_probe()
    assert first is not None
    assert 8.0 <= first <= 12.0
    assert first != 10.0
