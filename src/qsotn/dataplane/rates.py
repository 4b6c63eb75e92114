"""Bit rates of ITU-T G.709: ODU, OPU and OTU, as the fractions that clause 7 defines them by.

What always holds: a rate is exact, in bit/s; the decimal figures of the tables are its rounding. Every ODUk frame has
4 × 3824 bytes whatever its rate, of which 4 × 3808 are OPUk payload, so all other rates follow from one.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction
from typing import Final

from qsotn.errors import UsageError

KILO: Final = 1000
ODU_BITS: Final = 4 * 3824 * 8
OPU_PAYLOAD_BITS: Final = 4 * 3808 * 8
OTU_BITS: Final = 4 * 4080 * 8

GFP_OVERHEAD: Final = 12
"""Bytes that GFP-F adds to a client frame: core header, type with tHEC, payload FCS (G.7041 clause 6.1)."""
ETHERNET_FCS: Final = 4


@dataclass(frozen=True)
class OduRate:
    """One row of tables 7-2 and 7-3."""

    name: str
    rate: Fraction
    """Nominal bit rate of the ODU, bit/s."""
    tolerance_ppm: int
    """Greatest deviation from the nominal rate, parts per million."""
    clause: str
    """Where G.709 defines it."""

    @property
    def period(self) -> Fraction:
        """Return the duration of a frame, in seconds (table 7-4)."""
        return ODU_BITS / self.rate

    @property
    def payload_rate(self) -> Fraction:
        """Return the nominal bit rate of the OPU payload, bit/s (table 7-3)."""
        return self.rate * OPU_PAYLOAD_BITS / ODU_BITS

    def client_rate(self, frame_size: int) -> Fraction:
        """Return how many client bits a second GFP-F carries in frames of `frame_size` bytes, at the nominal rate.

        An Ethernet frame's own check sequence is carried as well (G.7041 clause 7.1.1) but is not counted.
        """
        return self.payload_rate * frame_size / (frame_size + ETHERNET_FCS + GFP_OVERHEAD)


@dataclass(frozen=True)
class OtuRate:
    """One row of table 7-1."""

    name: str
    rate: Fraction
    """Nominal bit rate, bit/s, of frames of 4 × 4080 bytes."""
    tolerance_ppm: int
    odu: str
    """The ODU it carries."""
    clause: str

    @property
    def period(self) -> Fraction:
        """Return the duration of a frame, in seconds: that of the ODU frame in it."""
        return OTU_BITS / self.rate


def _odu(name: str, numerator: int, denominator: int, base_kbit_s: int, ppm: int) -> OduRate:
    rate = Fraction(numerator, denominator) * base_kbit_s * KILO
    return OduRate(name, rate, ppm, "G.709 clause 7.3, table 7-2")


ODU_RATES: Final = {
    odu.name: odu
    for odu in (
        _odu("ODU0", 1, 1, 1_244_160, 20),
        _odu("ODU1", 239, 238, 2_488_320, 20),
        _odu("ODU2", 239, 237, 9_953_280, 20),
        _odu("ODU2e", 239, 237, 10_312_500, 100),
        _odu("ODU3", 239, 236, 39_813_120, 20),
        _odu("ODU4", 239, 227, 99_532_800, 20),
    )
}

OTU_RATES: Final = {
    name: OtuRate(name, Fraction(255, divisor) * base * KILO, 20, odu, "G.709 clause 7.2, table 7-1")
    for name, divisor, base, odu in (
        ("OTU1", 238, 2_488_320, "ODU1"),
        ("OTU2", 237, 9_953_280, "ODU2"),
        ("OTU3", 236, 39_813_120, "ODU3"),
        ("OTU4", 227, 99_532_800, "ODU4"),
    )
}

FLEX_TOLERANCE_PPM: Final = 100

_TRIBUTARY_SLOTS: Final = (
    (range(1, 9), Fraction(1_249_177_230), "ODU2.ts"),
    (range(9, 33), Fraction(1_254_470_354), "ODU3.ts"),
    (range(33, 81), Fraction(1_301_467_133), "ODU4.ts"),
)
"""Slots an ODUflex(GFP) takes, and the bit rate that table 7-8 recommends for each of them."""


def odu_rate(name: str) -> OduRate:
    """Return the ODU of that name; `ODUflex-n` is an ODUflex(GFP) of n slots. `UsageError` for any other."""
    if name in ODU_RATES:
        return ODU_RATES[name]
    prefix, _, slots = name.partition("-")
    if prefix == "ODUflex" and slots.isascii() and slots.isdigit():
        return flex_for_packets(int(slots))
    raise UsageError(f"{name!r} is no ODU: expected one of {_listed(ODU_RATES)} or ODUflex-1 to ODUflex-80")


def otu_rate(name: str) -> OtuRate:
    """Return the OTU of that name; raises `UsageError` for one that is not in the table."""
    try:
        return OTU_RATES[name]
    except KeyError:
        raise UsageError(f"{name!r} is no OTU: expected one of {_listed(OTU_RATES)}") from None


def flex_for_packets(slots: int) -> OduRate:
    """Return the ODUflex(GFP) of that many tributary slots of 1.25 Gbit/s (clause 12.2.5, table 7-8)."""
    for numbers, rate, _ in _TRIBUTARY_SLOTS:
        if slots in numbers:
            return OduRate(f"ODUflex-{slots}", slots * rate, FLEX_TOLERANCE_PPM, "G.709 clause 7.3, table 7-8")
    raise UsageError(f"an ODUflex(GFP) of {slots} tributary slots: 1 to 80 are possible")


def flex_for_stream(client_rate: Fraction) -> OduRate:
    """Return the ODUflex(CBR) of a constant bit rate client, bit/s: 239/238 of its rate (clause 12.2.5)."""
    least = ODU_RATES["ODU1"].payload_rate
    if client_rate <= least:
        raise UsageError(f"a client of {float(client_rate):.0f} bit/s needs no ODUflex: it takes more than {least}")
    return OduRate("ODUflex", Fraction(239, 238) * client_rate, FLEX_TOLERANCE_PPM, "G.709 clause 7.3, table 7-2")


def _listed(names: Iterable[str]) -> str:
    return ", ".join(names)
