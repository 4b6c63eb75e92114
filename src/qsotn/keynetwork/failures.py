"""For how long a link is left out after a supply failed at it: the same for ready pools and for lines."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

AVOIDED_US: Final = 60 * 1_000_000
"""How long a link is left out after a supply failed at it; twice as long each further time, until one succeeds."""
REFUSED_US: Final = 15 * 1_000_000
LONGEST_AVOIDED_US: Final = 15 * 60 * 1_000_000
LINK_BARRED: Final = "LINK_BARRED"
"""The code by which a relay refuses for a link that shows more errors than any key may be made of."""


def after_misnaming(code: str) -> str:
    """Return the code that a refusal goes on with when it named a wrong link: no claim of errors, which weighs less."""
    return "NO_ROUTE" if code == LINK_BARRED else code


@dataclass(frozen=True, slots=True)
class Failures:
    """How often supplies failed at a link since one crossed it, and until when it is left out (microseconds)."""

    number: int = 0
    until: int = 0

    def after(self, code: str, now: int) -> Failures:
        """Return them after one more refusal with this code."""
        return self.refused(now) if code == LINK_BARRED else self.failed(now)

    def failed(self, now: int) -> Failures:
        """Return them after a supply failed at the link.

        While it is left out already this changes nothing: supplies that were under way together fail of one thing.
        """
        if now < self.until:
            return self
        return Failures(self.number + 1, now + min(AVOIDED_US << min(self.number, 16), LONGEST_AVOIDED_US))

    def refused(self, now: int) -> Failures:
        """Return them after a relay refused for the link's errors: left out until the QKMP can have told of it.

        That it is good again, the QKMP tells too, and a relay that still refuses costs a supply a moment.
        """
        return Failures(self.number, max(self.until, now + REFUSED_US))
