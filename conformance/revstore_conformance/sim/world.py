"""What everything in a run shares: time, randomness, figures, the transcript."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from random import Random

from revstore_conformance.sim.loop import Loop
from revstore_conformance.sim.profile import Profile

STARTS = "starts:"
"""What the line begins with that tells a member's id."""


class Violation(AssertionError):  # noqa: N818 - it is what happened
    """A checker found what must not be."""

    def __init__(self, checker: str, text: str) -> None:
        super().__init__(f"{checker}: {text}")
        self.checker = checker
        self.text = text


class World:
    """One run's surroundings."""

    def __init__(
        self,
        seed: int,
        profile: Profile,
        write_line: Callable[[str], None] | None = None,
    ) -> None:
        """``write_line`` takes the transcript; without it none is made."""
        self.seed = seed
        self.profile = profile
        self.loop = Loop()
        self.figures: Counter[str] = Counter()
        self.violation: Violation | None = None
        """The first one; whatever caught its exception, the run ends with it."""
        self.faults_on = True
        self.acting = ""
        """The member that does something now."""
        self.names: dict[int, str] = {}
        """Members by id, for the transcript."""
        self.tracing = write_line is not None
        self._write_line = write_line

    def random(self, concern: str) -> Random:
        """A source of randomness of its own for each concern."""
        return Random(f"{self.seed}/{concern}")

    def note(self, who: str, text: str) -> None:
        """A line of the transcript; guard costly texts by ``tracing``."""
        if self._write_line is not None:
            self._write_line(f"{self.loop.now:10.4f}  {who:<6} {self._named(text)}")

    def _named(self, text: str) -> str:
        """A text with members' names in the place of their ids."""
        if not text.startswith(STARTS):
            for member, name in self.names.items():
                text = text.replace(f"{member:x}", name).replace(f"{member}", name)
        return text

    def violated(self, checker: str, text: str) -> Violation:
        """Note a violation; the caller raises what is returned."""
        found = Violation(checker, text)
        if self.violation is None:
            self.violation = found
            self.note("CHECK", f"VIOLATION {found}")
        return found

    def over(self) -> bool:
        """Whether a violation was found."""
        return self.violation is not None

    def every(
        self, random: Random, period_s: float, action: Callable[[], None]
    ) -> None:
        """Do something at random moments as long as faults are on."""
        if period_s <= 0:
            return

        def happen() -> None:
            if self.faults_on:
                action()
                self.loop.after(random.expovariate(1 / period_s), happen)

        self.loop.after(random.expovariate(1 / period_s), happen)
