"""The paper map: where every step of the figures is in the code, as Markdown, from the declared ladders alone.

`docs/paper-map.md` is the output of `render`; a test and the check script compare them. The text is deterministic.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator

import msgspec

from qsotn.console.refusals import refusal_codes
from qsotn.interfaces import EXTENSIONS, TABLE_2, Interface, Seat
from qsotn.procedures.catalogue import LADDERS
from qsotn.procedures.ladder import Ladder, Step

_INTRODUCTION = """\
# Paper map

Printed by `qsotn paper-map` from the declared ladders in `src/qsotn/procedures/`; do not edit it by hand.

How to read it. A ladder is one procedure. A row of its first table is one message: the number of the step in the
paper's figure, with a letter where one number takes several messages; the message's type (in `src/qsotn/messages.py`)
and its fields; the seats it goes between; the interface (Table 2 of the paper, and our extensions); and the function
that the *receiver* runs when the message has been verified. Beneath each table stands what those functions do, in
their own first lines, and the codes with which each may refuse. Any other step than the one awaited is refused
by the node itself (`OutOfOrder`, `WrongParty`, `ReplayedMessage`), and a party that finds its part of a procedure past
the deadline ends it as TIMEOUT. The last table of a ladder is its projection on the seats: what each seat awaits, in
this order, and from whom. A seat takes the next step only when the one before is complete.
"""


def render() -> str:
    """Return the whole paper map."""
    parts = [_INTRODUCTION, _interfaces(), *(_ladder(ladder) for ladder in LADDERS.values())]
    return "\n".join(parts)


def _interfaces() -> str:
    rows = [
        *(_interface(interface, "Table 2") for interface in TABLE_2),
        *(_interface(interface, "extension") for interface in EXTENSIONS),
    ]
    return "\n".join(["## Interfaces", "", *_table(("name", "from", "joins", "carries", "protection"), rows), ""])


def _interface(interface: Interface, source: str) -> tuple[str, ...]:
    joins = ", ".join(f"{one} ↔ {other}" for one, other in interface.joins)
    courier = f", through the {interface.courier} unread" if interface.courier else ""
    return interface.name, source, joins, interface.carries, _protection(interface) + courier


def _protection(interface: Interface) -> str:
    if interface.name == "line":
        return "AES-256-GCM per crypto multiframe, HMAC in GCC1 and GCC2"
    return "signed, then sealed to the receiver" if interface.sealed else "signed"


def _ladder(ladder: Ladder) -> str:
    columns = ("step", "message", "fields", "from → to", "over", "function")
    return "\n".join(
        [
            f"## {ladder.name}: {ladder.source}",
            "",
            *_table(columns, (_row(step) for step in ladder)),
            "",
            *(_deed(step) for step in ladder),
            "",
            *_compensations(ladder),
            *_table(("seat", "awaits, in this order"), _projection(ladder)),
            "",
        ]
    )


def _row(step: Step) -> tuple[str, ...]:
    fields = ", ".join(field.name for field in msgspec.structs.fields(step.message))
    ways = "<br>".join(f"{sender} → {receiver}" for sender, receiver in step.edges)
    function = f"`{step.act.__name__}` in {_file(step.act)}"
    return step.label, step.message.__name__, fields, ways, step.interface.name, function


def _file(function: object) -> str:
    module = inspect.getmodule(function)
    return "`src/" + str(module and module.__name__).replace(".", "/") + ".py`"


def _deed(step: Step) -> str:
    codes = refusal_codes(step.act)
    refusals = f" *Refuses with {', '.join(codes)}.*" if codes else ""
    return f"- **{step.label}** {_first_line(step.act)}{refusals}"


def _first_line(function: object) -> str:
    return (inspect.getdoc(function) or "").partition("\n")[0]


def _compensations(ladder: Ladder) -> Iterator[str]:
    if ladder.compensations:
        yield "When the procedure fails:"
        yield ""
        for role, act in ladder.compensations.items():
            yield f"- **{role}**, `{act.__name__}`: {_first_line(act)}"
        yield ""


def _projection(ladder: Ladder) -> Iterator[tuple[str, str]]:
    for seat in Seat:
        if steps := ladder.inbound(seat):
            yield seat, ", ".join(_awaited(step, seat) for step in steps)


def _awaited(step: Step, seat: Seat) -> str:
    return f"{step.label} ← {' and '.join(step.senders_to(seat))}"


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> Iterator[str]:
    yield _line(head)
    yield _line(("---",) * len(head))
    for row in rows:
        yield _line(row)


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"
