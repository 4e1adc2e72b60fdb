"""The one table of all services, which every transport serves."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from revstore.api import auth, cluster, health, kv, lease, maintenance, watch
from revstore.api.gate import RequireLeader, guard
from revstore.api.replica import Replica
from revstore.errors import PluginError
from revstore.interfaces.transport import Method

Collect = Callable[[Replica], list[Method]]
"""What each service module offers: its methods for a replica."""

SERVICES: tuple[Collect, ...] = (
    kv.methods,
    watch.methods,
    lease.methods,
    cluster.methods,
    maintenance.methods,
    auth.methods,
    health.methods,
)


class Services(dict[str, Method]):
    """Methods by path, with the rules of ``gate`` in front of each.

    A ``ServiceTable``; whoever runs the member calls ``leader_lost`` when no leader
    was known for three election timeouts.
    """

    def __init__(self, replica: Replica, methods: Iterable[Method]) -> None:
        super().__init__()
        self.require_leader = RequireLeader()
        for method in methods:
            if method.path in self:
                raise PluginError(f"two services offer the method {method.path!r}")
            self[method.path] = guard(method, replica, self.require_leader)

    def leader_lost(self) -> None:
        """End every stream whose client asked for ``hasleader``. Raises: nothing."""
        self.require_leader.leader_lost()


def build_table(replica: Replica, extra: Iterable[Method] = ()) -> Services:
    """All services of a member; ``extra`` adds methods of other services.

    Raises:
        PluginError: a path is offered twice.
    """
    methods = [method for collect in SERVICES for method in collect(replica)]
    return Services(replica, [*methods, *extra])
