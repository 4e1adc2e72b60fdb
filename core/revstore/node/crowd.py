"""Whether it pays to sleep while proposals gather.

Where calls reach the loop one by one, as behind grpcio, a crowd of clients looks like
a few: each call takes turns of the loop and a thread's help. A batch that sleeps until
no more come is large if there is a crowd, and late for nothing if there is none. What
tells is how many came while it slept, and how many have no answer yet: among several
members a batch takes long enough for a crowd to show in that.
"""

from __future__ import annotations

from revstore.node.replica import BATCH_ENOUGH

CROWD = 16
"""So many in a batch, or without an answer, were worth sleeping for."""
CHANCES = 8
"""So many smaller batches in a row end it: a crowd takes a few to line up."""
RETRY_BATCHES = 256
"""Then so many are not slept for."""
BATCH_ENOUGH_FOR_MEMBERS = 256
"""So many are not waited for any longer where a batch makes work for other members."""


class Crowd:
    """What the batches so far tell, and the proposals without an answer."""

    def __init__(self) -> None:
        self._chances = CHANCES
        self._pause = 0
        """Batches not to be slept for before the next try."""
        self._last = 0
        """How many the last batch had that was slept for."""
        self._expected = 0
        self._enough = BATCH_ENOUGH

    def is_there(self, unanswered: int) -> bool:
        """Whether so many proposals without an answer are a crowd's.

        Raises: nothing.
        """
        return unanswered >= CROWD

    def worth_sleeping(self, unanswered: int, *, alone: bool) -> bool:
        """Whether to sleep for the next batch. Raises: nothing.

        ``alone`` says that there are no other members, for whose sake it is worth more.
        """
        self._enough = BATCH_ENOUGH if alone else BATCH_ENOUGH_FOR_MEMBERS
        seen = max(unanswered, self._last)
        self._expected = 0 if alone or seen < CROWD else seen // 2
        if self._pause and not self.is_there(unanswered):
            self._pause -= 1
            return False
        return True

    def sleeps_on(self, queued: int, before: int) -> bool:
        """Whether to sleep again, with so many now and before the last sleep.

        Without new ones too, until there are half as many as the crowd was: who has
        just been answered needs longer than one sleep to come again.
        Raises: nothing.
        """
        return (queued > before or queued < self._expected) and queued < self._enough

    def slept(self, batch: int) -> None:
        """A batch of so many was slept for. Raises: nothing."""
        self._last = batch
        self._chances = CHANCES if batch >= CROWD else self._chances - 1
        if not self._chances:
            self._chances = CHANCES
            self._pause = RETRY_BATCHES
