"""A procedure as data: a ladder of declared steps, in the order and with the numbers of the paper's figure.

A step function does what the *receiver* of its message does. It is declared with its number, who sends, who receives,
over which interface, and which message; everything else is computed from the declarations: what a seat awaits next,
which interface an answer takes, the printed ladder, the paper map. A ladder is checked when it is sealed at import:
numbers are contiguous, each interface joins the roles of its step, each message type stands for one step.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from typing import Any, TypeVar

from qsotn.domain import Role
from qsotn.interfaces import Interface, Seat
from qsotn.messages import Message

F = TypeVar("F", bound=Callable[..., None])
Seats = Seat | tuple[Seat, ...]


@dataclass(frozen=True)
class Step:
    """One declared step. `label` is the figure's number, with a letter where one number takes several messages."""

    label: str
    edges: tuple[tuple[Seat, Seat], ...]
    interface: Interface
    message: type[Message]
    act: Callable[[Any, Any], None]
    answers: str | None
    introduces: bool
    on_line: bool

    @cached_property
    def number(self) -> int:
        """The number in the figure."""
        return int(re.sub(r"\D", "", self.label))

    @cached_property
    def part(self) -> str:
        """The letter within the number, or nothing."""
        return re.sub(r"\d", "", self.label)

    def senders_to(self, receiver: Seat) -> tuple[Seat, ...]:
        """The seats that send this step's message to one receiving seat."""
        return tuple(sender for sender, to in self.edges if to is receiver)


def _edges(senders: Seats, receivers: Seats) -> tuple[tuple[Seat, Seat], ...]:
    one, other = _several(senders), _several(receivers)
    if len(one) == len(other):
        return tuple(zip(one, other, strict=True))
    return tuple(product(one, other))


def _several(seats: Seats) -> tuple[Seat, ...]:
    return seats if isinstance(seats, tuple) else (seats,)


class Ladder:
    """An ordered set of steps, and what follows from it."""

    def __init__(self, name: str, source: str, steps: Sequence[Step] = ()) -> None:
        self.name = name
        self.source = source
        self._steps: dict[str, Step] = {step.label: step for step in steps}
        self._expected: dict[Seat, list[tuple[Step, dict[str, Seat]]]] = {}
        """For a seat that was asked about: each step it receives, and who sends it, by the key it is heard under."""
        self.revocable: dict[Seat, tuple[Seat, ...]] = {}
        """Whose refusal still undoes what a named seat has completed; other seats hear every neighbour's."""
        self.compensations: dict[Role, Callable[[Any, Any], None]] = {}

    def __iter__(self) -> Iterator[Step]:
        return iter(self._steps.values())

    def step(
        self,
        label: str,
        senders: Seats,
        receivers: Seats,
        interface: Interface,
        message: type[Message],
        *,
        answers: str | None = None,
        introduces: bool = False,
        on_line: bool = False,
    ) -> Callable[[F], F]:
        """Declare the next step. As many senders as receivers are paired off; one of either meets all of the other.

        `answers` names the earlier step whose message this one must quote. `introduces` lets the sender attach its
        certificates. `on_line` marks a step that travels in the OTN line itself and not as a datagram.
        """

        def declare(act: F) -> F:
            if label in self._steps:
                raise ValueError(f"{self.name}: step {label} is declared twice")
            edges = _edges(senders, receivers)
            self._steps[label] = Step(label, edges, interface, message, act, answers, introduces, on_line)
            self._expected.clear()
            return act

        return declare

    def compensate(self, role: Role) -> Callable[[F], F]:
        """Declare how a role undoes what it did when the procedure fails."""

        def declare(act: F) -> F:
            self.compensations[role] = act
            return act

        return declare

    def excerpt(self, name: str, source: str, first: str, last: str) -> Ladder:
        """Return the steps from `first` to `last` as a procedure of its own: the same functions, the same labels."""
        labels = list(self._steps)
        return Ladder(name, source, [self[label] for label in labels[labels.index(first) : labels.index(last) + 1]])

    def sealed(self) -> Ladder:
        """Check the declarations against each other and return the ladder. Raises `ValueError` at import."""
        steps = list(self)
        numbers = sorted({step.number for step in steps})
        if numbers != list(range(numbers[0], numbers[-1] + 1)) or [s.number for s in steps] != sorted(
            s.number for s in steps
        ):
            raise ValueError(f"{self.name}: step numbers are not contiguous and in order: {numbers}")
        for number in numbers:
            self._check_parts(number)
        if len({step.message for step in steps}) != len(steps):
            raise ValueError(f"{self.name}: one message type stands for two steps")
        for step in steps:
            self._check_step(step)
        return self

    def _check_parts(self, number: int) -> None:
        parts = [step.part for step in self if step.number == number]
        lettered = [chr(ord("a") + index) for index in range(len(parts))]
        if parts not in ([""], lettered):
            raise ValueError(f"{self.name}: the parts of step {number} are {parts}, expected {lettered}")

    def _check_step(self, step: Step) -> None:
        for sender, receiver in step.edges:
            if not step.interface.connects(sender.role, receiver.role):
                raise ValueError(
                    f"{self.name}: {step.interface.name} does not join {sender} and {receiver} (step {step.label})"
                )
        if step.answers is not None and step.answers not in self._steps:
            raise ValueError(f"{self.name}: step {step.label} answers {step.answers}, which does not exist")

    def __getitem__(self, label: str) -> Step:
        return self._steps[label]

    def __contains__(self, label: object) -> bool:
        return label in self._steps

    def of_message(self, message: type[Message]) -> Step:
        """Return the step that a message type stands for. Raises `KeyError`."""
        for step in self:
            if step.message is message:
                return step
        raise KeyError(f"{self.name} has no {message.__name__}")

    def inbound(self, seat: Seat) -> list[Step]:
        """The steps whose message this seat receives, in order: the seat's state machine, projected."""
        return [step for step, _ in self._expected_by(seat)]

    def _expected_by(self, seat: Seat) -> list[tuple[Step, dict[str, Seat]]]:
        expected = self._expected.get(seat)
        if expected is None:
            senders = ((step, step.senders_to(seat)) for step in self)
            expected = self._expected[seat] = [
                (step, {heard_key(step.label, sender): sender for sender in several})
                for step, several in senders
                if several
            ]
        return expected

    def awaited(self, seat: Seat, heard: Collection[str]) -> list[tuple[Step, Seat]]:
        """Return every (step, sender) this seat would accept now, given what it heard (`"3:cpe-a"`).

        A seat accepts only the first step that is not complete: one with two senders is complete when both were heard.
        """
        for step, senders in self._expected_by(seat):
            missing = [(step, sender) for key, sender in senders.items() if key not in heard]
            if missing:
                return missing
        return []

    def interface_between(self, one: Seat, other: Seat) -> Interface | None:
        """Return the interface over which two seats meet in this ladder (for a refusal), if they meet."""
        for step in self:
            if not step.on_line and ((one, other) in step.edges or (other, one) in step.edges):
                return step.interface
        return None


def heard_key(label: str, sender: Seat) -> str:
    """The name under which a row keeps what it heard or said: `"3:cpe-a"`."""
    return f"{label}:{sender}"
