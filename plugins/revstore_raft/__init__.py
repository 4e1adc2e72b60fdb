"""Raft consensus, the plugin "raft": a value machine without I/O.

Where to look for a rule:

=================  ==========================================================
``quorum.py``      what a majority, and a joint majority, has decided
``log.py``         the log: stable, unstable, committed, applied
``unstable.py``    the tail of the log that is not durable yet
``progress.py``    what a leader knows of one follower; ``inflights.py`` its window
``tracker.py``     the membership and everybody's progress and votes
``membership.py``  which change of membership is allowed, and what it gives
``roles.py``       every change of role, beneath a table
``election.py``    campaigns, votes, pre-votes, check-quorum
``replication.py`` the leader's half of replication; ``follower.py`` the other
``changes.py``     proposing, entering and leaving memberships
``reads.py``       confirmed reads: read index and leader lease
``transfer.py``    handing leadership over
``step.py``        where every input goes in
``output.py``      what comes out; ``rawnode.py`` in the shape of etcd's library
``machine.py``     the contract of ``revstore.interfaces.consensus``
=================  ==========================================================
"""
