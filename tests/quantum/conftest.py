from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import numpy as np
import pytest

from qsotn.domain import Entropy, Secret
from qsotn.quantum.ledger import DistilledBlock
from qsotn.quantum.link import ClassicalChannel, Progress, distil_block
from qsotn.quantum.optics import Attack
from qsotn.quantum.parameters import DecoyProtocol, OpticalLink, Parameters

SHORT = Parameters(
    OpticalLink(length_km=2.0, detector_efficiency=0.9),
    DecoyProtocol(pulses_per_block=1 << 19, epsilon_secrecy=1e-6),
)


class Distil(Protocol):
    def __call__(
        self,
        parameters: Parameters = SHORT,
        number: int = 1,
        nature: int = 1,
        authentication: tuple[Secret, Secret] | None = None,
        attack: Attack | None = None,
        channel: ClassicalChannel | None = None,
        progress: Progress | None = None,
    ) -> tuple[DistilledBlock, DistilledBlock]: ...


@pytest.fixture
def short() -> Parameters:
    """A link and a block so small that distilling takes a tenth of a second."""
    return SHORT


@pytest.fixture
def entropy_of() -> Callable[[int], Entropy]:
    """Repeatable entropy, different for each seed."""
    return lambda seed: np.random.Generator(np.random.PCG64(seed)).bytes


@pytest.fixture
def distil(entropy_of: Callable[[int], Entropy]) -> Distil:
    def run(
        parameters: Parameters = SHORT,
        number: int = 1,
        nature: int = 1,
        authentication: tuple[Secret, Secret] | None = None,
        attack: Attack | None = None,
        channel: ClassicalChannel | None = None,
        progress: Progress | None = None,
    ) -> tuple[DistilledBlock, DistilledBlock]:
        return distil_block(
            parameters,
            "jinan-qingdao",
            number,
            entropy_of(2 * number),
            entropy_of(2 * number + 1),
            nature,
            authentication or (Secret(bytes(range(64))), Secret(bytes(range(64)))),
            progress,
            attack=attack,
            channel=channel,
        )

    return run
