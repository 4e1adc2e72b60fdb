"""One member: the real replica, its shell on virtual time, its process and its disk.

Rules of this file:

1. The shell holds no decisions (``revstore.node.shell``). Everything it runs goes
   through ``_post``, which drops it if the process has ended since and keeps it back
   while the process is frozen.
2. A frozen process does nothing and notices nothing: when it thaws, everything that
   came due happens at once, in order, and its clock has gone on.
3. Work of the thread happens at one moment of simulated time and is reported at a later
   one, so a crash can come between; works run one after the other.
4. Only an injected fault may stop a replica.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TypeVar

from revstore.api.inprocess import DirectCall, DirectStream, invoke, open_stream
from revstore.api.service import Services, build_table
from revstore.errors import ApiError, CorruptionError
from revstore.node.bootstrap import Joining, Place, announce, open_replica
from revstore.node.ids import member_id
from revstore.node.replica import Replica
from revstore.node.settings import MemberSettings, PluginChoice
from revstore_conformance.files import PowerCut
from revstore_conformance.sim.checkers import Checkers, MemberView
from revstore_conformance.sim.disk import (
    WAL_DIRECTORY,
    Disk,
    Makers,
    SimulatedInbox,
    SimulatedWal,
)
from revstore_conformance.sim.network import Network
from revstore_conformance.sim.talk import Talk
from revstore_conformance.sim.world import STARTS, World

T = TypeVar("T")

EPOCH_S = 1_000_000_000.0
"""Unix time at the beginning of a run."""


class NodeClock:
    """A member's clock: it may run too fast or too slow."""

    def __init__(self, world: World, rate: float, start: float) -> None:
        self._loop = world.loop
        self.rate = rate
        self._start = start

    def now(self) -> float:
        """Seconds."""
        return self._start + self._loop.now * self.rate


class Node:
    """A member and its machine."""

    def __init__(
        self,
        world: World,
        network: Network,
        checkers: Checkers,
        number: int,
        urls: Mapping[str, tuple[str, ...]],
        joining: Joining | None = None,
    ) -> None:
        """``urls`` are the initial cluster's; a member that joins later has none."""
        self.world = world
        self.number = number
        self.name = f"m{number}"
        self.network = network
        self.checkers = checkers
        self.random = world.random(f"node {number}")
        skew = world.profile.clock_skew
        rate = 1 + self.random.uniform(-skew, skew)
        self.clock = NodeClock(world, rate, self.random.uniform(0, 1000))
        self.disk = Disk(world.profile.segment_bytes, self._power_cut)
        self.joining = joining
        self.settings = self._settings(urls)
        self.generation = 0
        self.up = False
        self.paused = False
        self.serving = False
        self.gone = False
        """Removed from the cluster for good."""
        self.retiring = False
        """Its operator knows that it was removed."""
        self.slow_disk = False
        self.starts = 0
        self.member_id = member_id((self.url,), self.settings.cluster_token)
        if joining is not None:
            self.member_id = joining.member_id
        self.view = MemberView(self.name)
        self.replica: Replica
        self.table: Services
        self.wal: SimulatedWal
        self.talk: Talk | None = None
        self.on_crash: Callable[[Node], None] = lambda node: None
        self._backlog: list[Callable[[], None]] = []
        self._pump_wanted = False
        self._drain_wanted = False
        self._thread_free = self._told_until = 0.0
        self._calls: dict[int, Callable[[], None]] = {}
        self._call_number = 0

    def _settings(self, urls: Mapping[str, tuple[str, ...]]) -> MemberSettings:
        profile = self.world.profile
        return MemberSettings(
            data_dir=Path("/"),
            name=self.name,
            backend=PluginChoice("memory"),
            consensus=PluginChoice(profile.consensus),
            peer_urls=(self.url,),
            client_urls=(f"http://{self.name}:2379",),
            initial_cluster=urls,
            heartbeat_s=profile.heartbeat_s,
            election_timeout_s=profile.election_timeout_s,
            snapshot_count=profile.snapshot_count,
            catchup_entries=profile.catchup_entries,
            compaction_batch_limit=profile.compaction_batch_limit,
            progress_notify_s=3.0,
        )

    @property
    def url(self) -> str:
        """Its peer URL."""
        return f"http://{self.name}:2380"

    # ----- the process

    def start(self) -> None:
        """Start the process on what is on the disk. Raises: StorageError."""
        world = self.world
        self.generation += 1
        self.starts += 1
        self._backlog.clear()
        self._calls.clear()
        self._pump_wanted = self._drain_wanted = self.serving = False
        self._thread_free = self._told_until = 0.0
        self.replica = open_replica(
            self.settings,
            Makers(self.disk, self._want_drain),
            self,
            Place(Path("/backend"), WAL_DIRECTORY, SimulatedInbox(self.disk)),
            threaded=False,
            random=world.random(f"member {self.number} start {self.starts}"),
            unix_time=EPOCH_S + world.loop.now,
            joining=self.joining,
        )
        assert isinstance(self.replica.wal, SimulatedWal)
        self.wal = self.replica.wal
        self.talk = Talk(self, self.network, self.replica, self.checkers.promises)
        self.table = build_table(self.replica)
        self.checkers.attach(self.view, self.replica)
        self.up = True
        world.note(self.name, f"{STARTS} {self.facts()}")
        self._post(self.random.random() * self.settings.heartbeat_s, self._tick)
        self._until_serving()

    def _until_serving(self) -> None:
        """As ``AsyncNode`` does: replay the log, then serve and announce."""

        def served(error: ApiError | None) -> None:
            if error is None:
                self.serving = True
                announce(self.replica, lambda: None)
            elif not self.replica.stopped:
                self._post(self.settings.heartbeat_s, self._until_serving)

        self.replica.read(served)
        self.request_pump()

    def crash(self, power: bool) -> None:
        """End the process, with the machine's power or without."""
        if not self.up:
            return
        self.world.note(self.name, "loses power" if power else "is killed")
        self._end()
        if power:
            self.disk.cut_power(self.random)
        else:
            self.disk.end_process()
        self.on_crash(self)

    def switch_off(self) -> None:
        """Take the machine away for good."""
        if not self.gone:
            self.world.note(self.name, "is switched off for good")
            self._end()
            self.gone = True

    def _end(self) -> None:
        self.up = self.serving = self.paused = False
        self.generation += 1
        if self.talk is not None:
            self.talk.end()
        self._backlog.clear()
        calls, self._calls = self._calls, {}
        for broken in calls.values():
            self.world.loop.after(self.network.client_delay(), broken)

    def _power_cut(self) -> None:
        """The power is cut in the middle of an operation of the disk."""
        self.world.note(self.name, "loses power in the middle of a disk operation")
        self.world.figures["fault: power cut within a disk operation"] += 1
        self._end()
        # What is under way unwinds first; nothing of it gets out.
        self.world.loop.after(0.0, self._after_cut)

    def _after_cut(self) -> None:
        self.disk.cut_power(self.random)
        self.on_crash(self)

    def pause(self) -> None:
        """Freeze the process."""
        self.paused = True
        self.world.note(self.name, "freezes")

    def resume(self) -> None:
        """Thaw it."""
        if not self.paused:
            return
        self.paused = False
        self.world.note(self.name, "thaws")
        backlog, self._backlog = self._backlog, []
        for action in backlog:
            self._post(0.0, action)

    def facts(self) -> str:
        """A short description for the transcript."""
        status = self.replica.consensus.status()
        return (
            f"id={self.member_id:x} term={status.term} role={status.role} "
            f"commit={status.commit} applied={status.applied} "
            f"last={status.last_index} revision={self.replica.store.revision}"
        )

    # ----- the shell

    def _post(self, delay_s: float, action: Callable[[], None]) -> None:
        """Run something in this process, ``delay_s`` of its own time from now."""
        run = partial(self._run, self.generation, action)
        self.world.loop.after(delay_s / self.clock.rate, run)

    def _run(self, generation: int, action: Callable[[], None]) -> None:
        if generation != self.generation:
            return
        if self.paused:
            self._backlog.append(action)
        else:
            self.world.acting = self.name
            try:
                action()
            except PowerCut:
                pass  # Nothing of what was under way goes on.

    def request_pump(self) -> None:
        """See ``Shell``."""
        if not self._pump_wanted:
            self._pump_wanted = True
            self._post(0.0, self._pump)

    def wake(self) -> None:
        """See ``Shell``."""
        self.request_pump()

    def _pump(self) -> None:
        self._pump_wanted = False
        self.replica.pump()

    def schedule(self, work: Callable[[], None], delay_s: float = 0.0) -> None:
        """See ``Shell``."""
        self._post(delay_s, work)

    def run_in_thread(
        self, work: Callable[[], T], done: Callable[[T | Exception], None]
    ) -> None:
        """See ``Shell``."""
        loop, rate = self.world.loop, self.clock.rate
        ready = max(self._thread_free, loop.now) + self._disk_time()
        self._thread_free = ready
        generation = self.generation

        def run() -> None:
            result: T | Exception
            try:
                result = work()
            except Exception as exc:
                result = exc
            if generation == self.generation:
                # Results are reported in order, also if a frozen process was late.
                told = max(self._told_until, loop.now + 0.2 * self._disk_time())
                self._told_until = told
                self._post((told - loop.now) * rate, lambda: done(result))

        self._post((ready - loop.now) * rate, run)

    def _disk_time(self) -> float:
        profile = self.world.profile
        mean = profile.slow_disk_sync_s if self.slow_disk else profile.sync_s
        return mean * (0.5 + self.random.expovariate(1.0))

    def _want_drain(self) -> None:
        if not self._drain_wanted:
            self._drain_wanted = True
            self._post(self._disk_time(), self._drain)

    def _drain(self) -> None:
        self._drain_wanted = False
        self.wal.drain()

    def _tick(self) -> None:
        replica = self.replica
        if self.disk.failed and not replica.stopped:
            replica.pump()
            busy = replica.housekeeping.flushing or replica.installing
            if not replica.stopped and not busy:
                text = f"{self.name} goes on after its disk failed"
                raise self.world.violated("stop after a disk failure", text)
        replica.tick()
        if replica.stopped:
            self._stopped()
        else:
            self._post(self.settings.heartbeat_s, self._tick)

    def _stopped(self) -> None:
        replica = self.replica
        if replica.removed:
            self.world.note(self.name, "was removed and stopped")
            self.world.figures["members that stopped after removal"] += 1
            self._end()
            self.gone = True
            return
        if not self.disk.failed:
            text = f"{self.name} stopped by itself: {replica.failure!r}"
            raise self.world.violated("no member fails by itself", text)
        self.world.figures["members that stopped after a disk failure"] += 1
        self.crash(power=True)

    def run_here(self, action: Callable[[], None]) -> None:
        """Something of a client or of another member reaches the process."""
        self._post(0.0, action)

    # ----- clients

    def call(
        self,
        path: str,
        message: bytes,
        answered: Callable[[bytes | ApiError], None],
        broken: Callable[[bool], None],
    ) -> None:
        """A call arrives. ``answered`` gets the answer as it reaches the client.

        ``broken(taken)`` hears that the connection ended without one; ``taken`` is
        whether the member may have begun with it.
        """
        if not self.up or not self.serving:
            self.world.loop.after(self.network.client_delay(), lambda: broken(False))
            return
        number = self._call_number = self._call_number + 1
        self._calls[number] = lambda: broken(True)
        self._post(0.0, partial(self._begin, number, path, message, answered))

    def _begin(
        self,
        number: int,
        path: str,
        message: bytes,
        answered: Callable[[bytes | ApiError], None],
    ) -> None:
        generation = self.generation

        def done(call: DirectCall) -> None:
            if generation != self.generation:
                return
            self._calls.pop(number, None)
            outcome = call.outcome
            assert outcome is not None
            if not self.network.client_loses():
                delay = self.network.client_delay()
                self.world.loop.after(delay, lambda: answered(outcome))

        invoke(self.table, path, message, on_done=done)

    def open_stream(
        self, path: str, opened: Callable[[DirectStream, int], None], queue_max: int
    ) -> None:
        """Open a streaming call in this process; ``opened`` gets it there."""
        self._post(
            0.0,
            lambda: opened(
                open_stream(self.table, path, queue_messages_max=queue_max),
                self.generation,
            ),
        )

    def connect(self, broken: Callable[[], None]) -> int:
        """A client's connection; ``broken`` hears when the process ends."""
        number = self._call_number = self._call_number + 1
        self._calls[number] = broken
        return number

    def disconnect(self, number: int) -> None:
        """The client leaves."""
        self._calls.pop(number, None)

    # ----- damage

    def meet_damage(self) -> None:
        """Look at a log with one damaged bit: that is noticed, or harmless.

        The bit is sound again afterwards, as if a cable had been replaced.
        """
        files = self.disk.files
        if WAL_DIRECTORY.name not in files.listdir(Path("/")):
            return
        names = [name for name in files.listdir(WAL_DIRECTORY) if name.endswith(".wal")]
        if not names:
            return
        path = WAL_DIRECTORY / self.random.choice(sorted(names))
        sound = files.content(path)
        written = len(sound.rstrip(b"\0"))
        if written < 64:
            return
        before = self._recovered()
        place = self.random.randrange(written)
        damaged = bytearray(sound)
        damaged[place] ^= 1 << self.random.randrange(8)
        files.replace(path, bytes(damaged))
        try:
            after = self._recovered()
        except CorruptionError:
            self.world.figures["fault: damage, refused"] += 1
        else:
            self.world.figures["fault: damage, in a torn tail or padding"] += 1
            self.checkers.damage(
                self.name, before, after, self.disk.in_tail(str(path), place)
            )
        files.replace(path, sound)

    def _recovered(self) -> tuple[int, int, int]:
        """(term, commit, last index) as a start would find them, on a copy."""
        copy = Disk(self.disk.segment_bytes, lambda: None)
        copy.files = self.disk.files.crashed(self.random, 1.0)
        wal = SimulatedWal(b"", copy, lambda: None)
        state = wal.recovery().hard_state
        found = state.term, state.commit, wal.recovery().last_index
        wal.close()
        return found
