"""How the twin watches the light of a link: when it measures it, and when an exchange is worth its authentication key.

Every exchange burns one, and only one that gives a block puts another in its place. An eavesdropper who stays would use
them up, and the link would have to be installed anew. So after an exchange that gave no key the light is measured,
which costs none, and the next exchange waits until the light is clearly better, or for pauses that double.
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Final

import msgspec

from qsotn.errors import UsageError
from qsotn.quantum.parameters import METRO

MEASURE_S: Final = 10.0
"""How often light is measured that makes no block: a link that rests, or gives none."""
SHORTEST_WAIT_S: Final = 2.0
LONGEST_WAIT_S: Final = 15 * 60.0
BETTER: Final = 0.8
"""Of the error rate at which no key came: what is worth another exchange."""
MOST_ERRORS: Final = METRO.protocol.max_error_rate
"""Of any block: the links of the twin are all of one kind."""
EAVESDROPPERS: Final = "eavesdroppers.toml"


class LinkWatch:
    """What one process of the twin has seen of a link's light."""

    def __init__(self, clock: Callable[[], float]) -> None:
        """`clock` tells seconds, from any beginning."""
        self._clock = clock
        self._measured_at = float("-inf")
        self._failed_rate = MOST_ERRORS
        self._failures = 0
        self._waits_until = float("-inf")
        self.distils = True
        """Whether keys are expected of it."""

    @property
    def is_due(self) -> bool:
        """Whether it is time to measure."""
        return self._clock() - self._measured_at >= MEASURE_S

    @property
    def is_worth_a_key(self) -> bool:
        """Whether to try an exchange."""
        return self.distils or self._clock() >= self._waits_until

    def distilled(self) -> None:
        """An exchange gave a block, which tells how the light is."""
        self._measured_at = self._clock()
        self._failures, self.distils = 0, True

    def gave_nothing(self, error_rate: float | None) -> None:
        """An exchange gave no key, at this error rate, or because too little light arrived to count."""
        self._measured_at = self._clock()
        self._failed_rate = MOST_ERRORS if error_rate is None else error_rate
        self._wait()

    def measured(self, error_rate: float | None) -> None:
        """Light was measured, with this error rate, or too little of it."""
        self._measured_at = self._clock()
        if error_rate is None or error_rate > MOST_ERRORS:
            if self.distils:
                self._wait()
        elif self._failures == 0 or error_rate <= BETTER * self._failed_rate:
            self.distils = True

    def _wait(self) -> None:
        self.distils = False
        self._waits_until = self._clock() + min(SHORTEST_WAIT_S * 2**self._failures, LONGEST_WAIT_S)
        self._failures = min(self._failures + 1, 16)


class Eavesdroppers:
    """Who measures the light of which link, as a file says that whoever shows the twin may write at any time."""

    def __init__(self, file: Path) -> None:
        """The file has one line for each link, `"link" = 0.4`: the fraction of its pulses that are intercepted."""
        self._file = file

    def fraction(self, link: str) -> float:
        """Return how much of a link's light is intercepted now. Raises `UsageError` for a file that is not one."""
        try:
            found = msgspec.convert(tomllib.loads(self._file.read_text("utf-8")), dict[str, float])
        except FileNotFoundError:
            return 0.0
        except (OSError, ValueError, msgspec.ValidationError) as error:
            raise UsageError(f'{self._file}: {error}; expected lines like "jinan-weifang" = 0.4') from error
        fraction = found.get(link, 0.0)
        if not 0 <= fraction <= 1:
            raise UsageError(f"{self._file}: {link} = {fraction:g} is no fraction; expected 0 to 1")
        return fraction
