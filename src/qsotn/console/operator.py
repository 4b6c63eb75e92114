"""What the operator's verbs share: one run against a province, waiting in sight, and how things are printed."""

from __future__ import annotations

import asyncio
import datetime as dt
import sys
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import msgspec
from rich.console import Console

from qsotn.app.operator import Operator, operator_of
from qsotn.console.columns import aligned
from qsotn.errors import Refusal
from qsotn.procedures.turn import State
from qsotn.service.http.procedures import Procedure

T = TypeVar("T")


def operate(state: Path, act: Callable[[Operator], Awaitable[T]]) -> T:
    """Run something as the operator of a province's folder, and return what it returns."""

    async def run() -> T:
        async with operator_of(state) as operator:
            return await act(operator)

    return asyncio.run(run())


async def carried_out(operator: Operator, begun: Procedure, patience_s: float | None) -> Procedure:
    """Wait in sight until a procedure has ended; without patience, return it as it began.

    Raises `Refusal` with the reason it failed for, `StillRunning` after `patience_s`.
    """
    if patience_s is None:
        return begun
    with _in_sight(begun) as show:
        ended = await operator.ended(begun.procedure, patience_s, show)
    if ended.state is State.FAILED:
        raise Refusal(ended.failure, f"{ended.ladder} {ended.procedure} of {ended.subject} failed")
    return ended


@contextmanager
def _in_sight(begun: Procedure) -> Iterator[Callable[[Procedure], None]]:
    """Show on standard error what a procedure waits for, if somebody watches."""
    console = Console(stderr=True, highlight=False, markup=False)
    name = f"{begun.ladder} of {begun.subject}"
    with console.status(name) as status:

        def show(seen: Procedure) -> None:
            awaited = ", ".join(dict.fromkeys(step for part in seen.parts for step in part.awaits))
            status.update(f"{name}: awaits {awaited}" if awaited else name)

        yield show


def begun_line(begun: Procedure, look: str) -> str:
    """Say that an order was taken, and where to see how it goes on."""
    return f"Ordered: {begun.ladder} {begun.procedure} of {begun.subject} is {begun.state}; see: {look}"


def write_json(shown: object) -> None:
    """Print one JSON document."""
    sys.stdout.write(msgspec.json.format(msgspec.json.encode(shown), indent=2).decode() + "\n")


def write_table(heading: Sequence[str], rows: Sequence[Sequence[str]], none: str) -> None:
    """Print a table, or a sentence where there is nothing to tabulate."""
    write_lines([aligned([heading, *rows]) if rows else none])


def write_lines(lines: Sequence[str]) -> None:
    """Print lines."""
    sys.stdout.write("\n".join(lines) + "\n")


def moment(microseconds: int) -> str:
    """Return a moment of UTC as people read it; nothing for 0, which is never."""
    if not microseconds:
        return ""
    return f"{dt.datetime.fromtimestamp(microseconds / 1e6, dt.UTC):%Y-%m-%d %H:%M:%S}"
