"""What a run is made of: sizes, chances and periods, each documented.

Times are simulated seconds. A period is the mean of an exponential distribution; 0
switches the thing off. Chances are per event.
"""

from __future__ import annotations

import msgspec


class Profile(msgspec.Struct, frozen=True, kw_only=True):
    """Options of a run."""

    name: str
    sizes: tuple[int, ...] = (3, 5)
    """How many members a cluster begins with; one is drawn."""
    consensus: str = "raft"
    fault_phase_s: float = 30.0
    """How long faults are injected, at least."""
    operations_min: int = 1_000
    """The fault phase goes on until so many client operations are over."""
    fault_phase_max_s: float = 90.0
    heal_bound_s: float = 40.0
    """After the faults end, everything must be well again within this time."""

    # Clients.
    kv_clients: int = 10
    think_s: float = 0.16
    """Mean pause between two operations of one client."""
    client_timeout_s: float = 1.5
    watch_clients: int = 3
    lease_clients: int = 2
    groups: int = 8
    """Groups of keys; a transaction stays within one."""
    group_keys: int = 3

    # Network between members, and between clients and members.
    delay_s: float = 0.002
    """Mean of a message's delay, besides half of it that every message has."""
    loss: float = 0.01
    duplicates: float = 0.01
    stray: float = 0.01
    """Chance that a message takes ``stray_s`` on top, and so is overtaken."""
    stray_s: float = 0.3
    framings: tuple[str, ...] = ("none", "tcp")
    """What a link draws from (``wires.py``). With "none" each message finds its own
    way; with the others a link is a connection, which keeps order and can break."""
    breaks: float = 0.001
    """Chance that a connection breaks instead of sending."""
    flips: float = 0.0003
    """Chance that a bit of a connection's next bytes is flipped."""
    client_loss: float = 0.01
    partition_every_s: float = 8.0
    partition_s: float = 2.5
    slow_link_every_s: float = 10.0
    slow_link_s: float = 2.0
    slow_link_delay_s: float = 0.4

    # Members.
    crash_every_s: float = 5.0
    """Crashes, of the process or of the machine."""
    down_s: float = 1.5
    cut_again: float = 0.1
    """Chance that the power is cut again while a member starts, or soon after."""
    cut_installing: float = 0.15
    """Chance that the power is cut within a snapshot's installation, or soon after."""
    pause_every_s: float = 8.0
    pause_s: float = 2.5
    clock_skew: float = 0.05
    """Clocks run up to this share too fast or too slow."""

    # Disks.
    sync_s: float = 0.001
    """Mean of what a sync of the log takes, besides half of it."""
    slow_disk_every_s: float = 10.0
    slow_disk_s: float = 2.0
    slow_disk_sync_s: float = 0.15
    failing_sync_every_s: float = 25.0
    failing_write_every_s: float = 40.0
    """Failing writes of the backend."""
    damage: float = 0.08
    """Chance that a restart meets damaged bytes in the log first."""

    # What operators do.
    transfer_every_s: float = 8.0
    membership_every_s: float = 3.0
    compaction_every_s: float = 6.0

    # Members' settings, small so that the rare happens.
    heartbeat_s: float = 0.1
    election_timeout_s: float = 1.0
    snapshot_count: int = 40
    catchup_entries: int = 10
    segment_bytes: int = 8 * 1024
    compaction_batch_limit: int = 50


STANDARD = Profile(name="standard")

HARSH = Profile(
    name="harsh",
    loss=0.04,
    cut_installing=0.3,
    duplicates=0.04,
    stray=0.05,
    stray_s=0.8,
    breaks=0.005,
    flips=0.001,
    client_loss=0.03,
    partition_every_s=5.0,
    slow_link_every_s=5.0,
    crash_every_s=3.0,
    pause_every_s=5.0,
    clock_skew=0.2,
    slow_disk_every_s=5.0,
    failing_sync_every_s=15.0,
    failing_write_every_s=20.0,
    damage=0.15,
    transfer_every_s=4.0,
    membership_every_s=2.0,
    compaction_every_s=4.0,
    snapshot_count=30,
    catchup_entries=5,
    operations_min=800,
    heal_bound_s=60.0,
)

CALM = Profile(
    name="calm",
    loss=0.0,
    duplicates=0.0,
    stray=0.0,
    breaks=0.0,
    flips=0.0,
    client_loss=0.0,
    partition_every_s=0.0,
    slow_link_every_s=0.0,
    crash_every_s=0.0,
    cut_again=0.0,
    cut_installing=0.0,
    pause_every_s=0.0,
    clock_skew=0.0,
    slow_disk_every_s=0.0,
    failing_sync_every_s=0.0,
    failing_write_every_s=0.0,
    damage=0.0,
    transfer_every_s=0.0,
    membership_every_s=0.0,
)
"""No faults: what is left is load, compactions and snapshots."""

SOLO = Profile(
    name="solo",
    sizes=(1,),
    consensus="solo",
    partition_every_s=0.0,
    slow_link_every_s=0.0,
    transfer_every_s=0.0,
    membership_every_s=0.0,
)
"""One member without peers: crashes, pauses and disks are left."""

FRAMED = Profile(name="framed", framings=("tcp", "grpc"))
"""The standard faults, every link a connection in a transport's own framing."""

PROFILES = {one.name: one for one in (STANDARD, HARSH, CALM, SOLO, FRAMED)}
