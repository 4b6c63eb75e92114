"""The rate that streams may be promised: what a pool gains while it wants keys, and what it holds."""

from __future__ import annotations

import pytest

from qsotn.service.interoperation.pool_rates import HOLDING_S, PoolRate, Seen

MARK = 300
"""Ready units from which on nothing more is asked for."""


@pytest.mark.parametrize(
    ("looks", "bits_per_second"),
    [
        ([], 0),
        ([Seen(0, 0, 0)], 0),
        ([Seen(0, 400, 400)], 400 * 256 // HOLDING_S),
        ([Seen(0, 0, 0), Seen(10, 100, 100)], 2560),
        ([Seen(0, 0, 0), Seen(10, 100, 100), Seen(20, 100, 90)], 1163),
        ([Seen(0, 400, 400), Seen(10, 400, 400), Seen(20, 400, 390)], 390 * 256 // HOLDING_S),
        ([Seen(0, 400, 400), Seen(10, 400, 100), Seen(20, 500, 200)], 2560),
        ([Seen(0, 400, 100), Seen(10, 50, 50), Seen(20, 150, 150)], 2560),
        ([Seen(0, 0, 0), Seen(10, 1000, 100), Seen(70, 1000, 100)], 100 * 256 // HOLDING_S),
    ],
    ids=[
        "never seen",
        "empty",
        "full, and nothing known of the network",
        "filling",
        "filling, then the network brings nothing, and newer looks count more",
        "full for a while",
        "looked at only while it wants keys",
        "a new series counts from its own beginning",
        "what was long ago is forgotten",
    ],
)
def test_a_pool_gains(looks: list[Seen], bits_per_second: int) -> None:
    rate = PoolRate(MARK)
    for seen in looks:
        rate.look(seen)
    assert rate.bits_per_second == bits_per_second
