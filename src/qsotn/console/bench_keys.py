"""What `qsotn bench keys` prints: tables for people, or one JSON object."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import msgspec

from qsotn.app.bench import keys
from qsotn.app.bench.keys import KeyBenchmark, Sizes
from qsotn.console.bench import progress
from qsotn.console.columns import aligned

LONG = 10_000_000
"""Keys consumed with `--long`."""


def run_keys(*, long: bool, as_json: bool) -> None:
    """Measure the key network and print the result."""
    sizes = Sizes(many=LONG) if long else Sizes()
    with progress() as tell:
        measured = keys.run(sizes, tell)
    if as_json:
        sys.stdout.write(msgspec.json.encode(measured).decode() + "\n")
    else:
        print("\n".join(_lines(measured)))


def _lines(measured: KeyBenchmark) -> Iterator[str]:
    yield "Round trips (enc_keys and dec_keys of one key) per second of the server's processor time"
    rows = [("at once", "here", "memory", "ratio", "naive", "ratio", "per second", "median", "99 %")]
    rows += [
        (
            str(one.connections),
            f"{one.per_cpu_s:.0f}",
            f"{one.memory_server_per_cpu_s:.0f}",
            f"{one.ratio_to_memory_server:.2f}",
            f"{one.naive_per_cpu_s:.0f}",
            f"{one.ratio_to_naive:.2f}",
            f"{one.per_s:.0f}",
            f"{one.median_ms:.1f} ms",
            f"{one.p99_ms:.1f} ms",
        )
        for one in measured.round_trips
    ]
    yield aligned(rows)
    yield "memory: a plain server with the same TLS and nothing on disk. naive: a transaction for each request."
    yield ""
    few, many = measured.consumed
    yield aligned(
        [
            ("keys per processor second, 128 a request", f"{measured.keys_per_cpu_s_at_128:,.0f}"),
            ("  the plain server in memory", f"{measured.memory_server_keys_per_cpu_s_at_128:,.0f}"),
            ("  at the store alone", f"{measured.consumed_per_cpu_s:,.0f}"),
            ("units laid in per processor second", f"{measured.deposited_per_cpu_s:,.0f}"),
            (f"rate after {many:,} keys over that after {few:,}", f"{measured.flatness:.3f}"),
            ("the disk syncs 4 KiB in", f"{measured.sync_ms:.2f} ms"),
            ("145 nodes planned in", f"{measured.plan_seconds:.4f} s"),
        ]
    )
    yield ""
    relayed = [("links", "keys per second", "per processor second", "in large batches", "per processor second")]
    relayed += [
        (
            str(one.hops),
            f"{one.keys_per_s:.0f}",
            f"{one.keys_per_cpu_s:.0f}",
            f"{one.keys_per_s_in_large_batches:.0f}",
            f"{one.keys_per_cpu_s_in_large_batches:.0f}",
        )
        for one in measured.relay
    ]
    yield aligned(relayed)
    yield ""
    yield "Not measured: " + "; ".join(measured.not_measured) + "."
