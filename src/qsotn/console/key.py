"""`qsotn key status` as a person sees it: where keys are, and where they went."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from qsotn.app.operator_keys import KeyStatus, TwinStatus, key_status
from qsotn.app.record import load_plan, load_record
from qsotn.console.columns import aligned
from qsotn.console.operator import operate, write_json, write_lines
from qsotn.keynetwork.pool import UNIT_BITS


def show_key_status(state: Path, *, as_json: bool) -> bool:
    """Show what all key managers and QSSPs say of keys; return whether all of them could be asked."""
    fill_bits, twin = load_plan(state).keys.fill_bits, load_record(state).twin.monitoring
    found = operate(state, lambda operator: key_status(operator, fill_bits, twin))
    if as_json:
        write_json(found)
    else:
        write_lines(list(_lines(found)))
    return not found.unreached


def _lines(found: KeyStatus) -> Iterator[str]:
    yield from _table(
        "QKD links: what each end may still allocate, and when the twin distils more",
        (
            "link",
            "at",
            "bits left",
            f"keys of {UNIT_BITS}",
            "refilled below",
            "blocks",
            "not yet agreed",
            "bits written off",
        ),
        [
            (
                one.link,
                one.km,
                f"{one.available_bits:,}",
                f"{one.available_bits // UNIT_BITS:,}",
                f"{one.fill_bits:,}",
                str(one.blocks),
                str(one.pending_blocks),
                f"{one.lost_bits:,}",
            )
            for one in found.links
        ],
        "no key manager answered",
    )
    yield from _table(
        "Key files, as each device's home counts them",
        ("cpe", "home", "state", "entries left", "of", "key file"),
        [(one.cpe, one.qssp, one.state, str(one.left), str(one.entries), one.key_file_id) for one in found.key_files],
        "none that could be counted",
    )
    yield from _table(
        "Keys that lines took, at each end",
        ("line", "cpe", "", "keys drawn", "delivered", "entries burned"),
        [
            (
                one.line,
                one.cpe,
                "in service" if one.in_service else "deleted",
                str(one.keys_drawn),
                str(one.keys_delivered),
                str(one.entries_burned),
            )
            for one in found.lines
        ],
        "none that could be counted",
    )
    yield _twin_line(found.twin)
    yield from (f"Not counted: {one.reason}" for one in found.unreached)


def _table(title: str, heading: tuple[str, ...], rows: list[tuple[str, ...]], none: str) -> Iterator[str]:
    yield title
    yield aligned([heading, *rows]) if rows else f"({none})"
    yield ""


def _twin_line(twin: TwinStatus) -> str:
    if not twin.ready:
        return f"The QKD twin is not ready: {twin.reason}."
    return f"The QKD twin keeps at least {twin.fill_bits:,} bits available at each end of each link."
