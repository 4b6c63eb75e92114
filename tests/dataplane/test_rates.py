"""Rates and geometry against the printed figures of ITU-T G.709 tables 7-1 to 7-4 and 7-8."""

from __future__ import annotations

from fractions import Fraction

import pytest

from qsotn.dataplane.g709 import ODU_TYPES
from qsotn.dataplane.rates import ODU_RATES, OTU_RATES, flex_for_packets, flex_for_stream, odu_rate, otu_rate
from qsotn.errors import UsageError


@pytest.mark.parametrize(
    ("name", "rate_kbit_s", "payload_kbit_s", "period_us", "ppm"),
    [
        ("ODU0", 1_244_160.000, 1_238_954.310, 98.354, 20),
        ("ODU1", 2_498_775.126, 2_488_320.000, 48.971, 20),
        ("ODU2", 10_037_273.924, 9_995_276.962, 12.191, 20),
        ("ODU2e", 10_399_525.316, 10_356_012.658, 11.767, 100),
        ("ODU3", 40_319_218.983, 40_150_519.322, 3.035, 20),
        ("ODU4", 104_794_445.815, 104_355_975.330, 1.168, 20),
    ],
)
def test_odu_rates_round_to_the_printed_ones(
    name: str, rate_kbit_s: float, payload_kbit_s: float, period_us: float, ppm: int
) -> None:
    odu = odu_rate(name)
    assert round(float(odu.rate) / 1000, 3) == rate_kbit_s
    assert round(float(odu.payload_rate) / 1000, 3) == payload_kbit_s
    assert round(float(odu.period) * 1e6, 3) == period_us
    assert odu.tolerance_ppm == ppm
    assert ODU_TYPES[name].rate_kbit_s == rate_kbit_s


@pytest.mark.parametrize(
    ("name", "rate_kbit_s"),
    [
        ("OTU1", 2_666_057.143),
        ("OTU2", 10_709_225.316),
        ("OTU3", 43_018_413.559),
        ("OTU4", 111_809_973.568),
    ],
)
def test_otu_rates_round_to_the_printed_ones_and_keep_the_frame_of_their_odu(name: str, rate_kbit_s: float) -> None:
    otu = otu_rate(name)
    assert round(float(otu.rate) / 1000, 3) == rate_kbit_s
    assert otu.period == ODU_RATES[otu.odu].period
    assert otu.rate == ODU_RATES[otu.odu].rate * Fraction(255, 239)


@pytest.mark.parametrize(
    ("slots", "kbit_s"), [(1, 1_249_177.230), (8, 9_993_417.840), (9, 11_290_233.186), (33, 42_948_415.389)]
)
def test_flex_takes_the_recommended_rate_of_each_slot(slots: int, kbit_s: float) -> None:
    assert float(flex_for_packets(slots).rate) / 1000 == pytest.approx(kbit_s, abs=0.0005)
    assert odu_rate(f"ODUflex-{slots}") == flex_for_packets(slots)


def test_flex_for_a_constant_bit_rate_client_is_a_little_faster_than_it() -> None:
    client = Fraction(4_250_000_000)  # Fibre Channel at 4.25 Gbit/s
    assert flex_for_stream(client).payload_rate == client
    with pytest.raises(UsageError, match="needs no ODUflex"):
        flex_for_stream(Fraction(1_000_000_000))


def test_client_rate_counts_what_gfp_and_ethernet_add() -> None:
    odu = odu_rate("ODU2e")
    assert odu.client_rate(1514) == odu.payload_rate * 1514 / 1530
    assert odu.client_rate(64) < odu.client_rate(9000) < odu.payload_rate


@pytest.mark.parametrize("name", ["ODU9", "ODUflex", "ODUflex-0", "ODUflex-81", "ODUflex-x", "ODUflex-²", ""])
def test_an_unknown_odu_is_refused(name: str) -> None:
    with pytest.raises(UsageError):
        odu_rate(name)


def test_an_unknown_otu_is_refused_with_those_known() -> None:
    with pytest.raises(UsageError, match="OTU4"):
        otu_rate("OTU0")
    assert set(OTU_RATES) == {"OTU1", "OTU2", "OTU3", "OTU4"}
