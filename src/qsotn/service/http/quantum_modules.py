"""What the QKD modules at a key manager's end of a link ask and bring (ITU-T's Kq reference point; the API is ours).

A module identifies itself by a certificate `qkd/<link>`, and has to do with that link alone. Key bits cross this
interface in the clear inside TLS, as they do between a module and a key manager in one rack.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Final

import msgspec

from qsotn.domain import Role, Secret
from qsotn.parties.km import Km
from qsotn.procedures.turn import Work
from qsotn.quantum.ledger import BlockLedger
from qsotn.service import link_keys
from qsotn.service.http.answer import Answer, json_answer
from qsotn.service.http.declaring import at_desk
from qsotn.service.http.names import LineName
from qsotn.service.http.operation import DESK, Act, Call, Content, Operation, Success, operation
from qsotn.service.http.problems import FORBIDDEN, KEY_REUSED, KEY_SHORTAGE, NOT_FOUND, REFUSED, HttpProblem
from qsotn.service.link_keys import AUTHENTICATION_BYTES, POOL_DEPTH, LinkStatus

_PREFIX: Final = "/kq/v1/links/{link}"
_MODULES: Final = frozenset({Role.QKD})
_TAG: Final = "Kq"
_LARGEST_BLOCK: Final = 40 * 1024
_EXAMPLE_KEY: Final = bytes(range(AUTHENTICATION_BYTES))

Number = Annotated[int, msgspec.Meta(ge=1, le=10**8 - 1, description="The number of an exchange, and of its block.")]
AuthenticationKey = Annotated[bytes, msgspec.Meta(min_length=AUTHENTICATION_BYTES, max_length=AUTHENTICATION_BYTES)]


class LinkPath(msgspec.Struct, frozen=True):
    """One link, by its name."""

    link: LineName


class Blind(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A body that holds key bits shows none of them."""

    def __repr__(self) -> str:
        return f"{type(self).__name__}(…)"


class FirstKeys(Blind, frozen=True):
    """The one-time authentication keys that both ends begin with, 64 bytes each."""

    keys: Annotated[tuple[AuthenticationKey, ...], msgspec.Meta(min_length=POOL_DEPTH, max_length=POOL_DEPTH)]


class Exchange(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An exchange that is about to begin."""

    number: Number


class ExchangeKey(Blind, frozen=True):
    """The authentication key that this end burned for an exchange."""

    number: Number
    key: AuthenticationKey


class Block(Blind, frozen=True):
    """This end's copy of a distilled block, the key it withheld for a later exchange, and the account of it."""

    number: Number
    key: Annotated[bytes, msgspec.Meta(min_length=32, max_length=_LARGEST_BLOCK)]
    withheld: AuthenticationKey
    ledger: BlockLedger


class Measurement(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the modules measured of a link's light without making a key: the QBER, or null if too little arrived.

    `distils` is whether keys are expected of it: not after an exchange gave none, until a later one does or the light
    is clearly better.
    """

    error_rate: Annotated[float, msgspec.Meta(ge=0, le=1)] | None
    distils: bool


_STATUS_EXAMPLE: Final = LinkStatus("jinan-weifang", 110_848, 3, (4, 5, 6))
_LEDGER_EXAMPLE: Final = BlockLedger(
    link="jinan-weifang",
    block=4,
    pulses=12_582_912,
    detections=505_000,
    key_basis_bits=409_600,
    test_basis_bits=45_000,
    error_rate=0.0046,
    vacuum_events=1200.0,
    single_photon_events=260_000.0,
    phase_error_rate=0.012,
    leaked_bits_a_to_b=24_000,
    leaked_bits_b_to_a=24_000,
    verification_bits=64,
    authentication_bits=512,
    epsilon_secrecy=1e-9,
    epsilon_correctness=1e-15,
    epsilon_authentication=1e-15,
    secret_bits=129_280,
    net_bits=128_768,
    link_seconds=0.01,
)


def _own_link(km: Km, call: Call[LinkPath, Any, Any]) -> str:
    """Return the link a module asks about. Raises `HttpProblem` for one that is not its own, or not this party's."""
    link: str = call.path.link
    if call.peer.party != f"{Role.QKD}/{link}":
        raise HttpProblem(FORBIDDEN, f"{call.peer.party} is no module of {link}")
    if link not in km.configuration.links:
        raise HttpProblem(NOT_FOUND, f"{km.desk.party} has no link {link!r}")
    return link


def _declared(method: str, path: str, success: Success, body: Content | None = None) -> Callable[[Act], Operation]:
    return operation(
        method,
        _PREFIX + path,
        tag=_TAG,
        roles=_MODULES,
        path_type=LinkPath,
        body=body,
        successes=(success,),
        problems=(*DESK, *(() if body is None else (REFUSED, KEY_SHORTAGE, KEY_REUSED))),
    )


@_declared("GET", "", Success(200, "How this end stands.", Content(LinkStatus, _STATUS_EXAMPLE)))
async def read_link(call: Call[LinkPath, Any, None]) -> Answer:
    """How this end of the link stands: what it may still allocate, and which exchange was its last."""
    return json_answer(200, await at_desk(call, lambda km: link_keys.status(km, _own_link(km, call))))


@_declared(
    "PUT",
    "/first-keys",
    Success(204, "Kept, or exchanges have begun already."),
    Content(FirstKeys, FirstKeys((_EXAMPLE_KEY,) * POOL_DEPTH)),
)
async def install_first_keys(call: Call[LinkPath, Any, FirstKeys]) -> Answer:
    """Bring the first authentication keys, as an installer does in a sealed envelope.

    Until the first exchange they take the place of those brought before; from then on this changes nothing.
    """
    keys = [Secret(key) for key in call.body.keys]
    await at_desk(call, lambda km: link_keys.install(km, _own_link(km, call), keys))
    return Answer(204)


@_declared(
    "POST",
    "/exchanges",
    Success(200, "The key for it; nobody gets it again.", Content(ExchangeKey, ExchangeKey(4, _EXAMPLE_KEY))),
    Content(Exchange, Exchange(4)),
)
async def begin_exchange(call: Call[LinkPath, Any, Exchange]) -> Answer:
    """Burn the authentication key of an exchange, and begin it."""
    number = call.body.number
    key = await at_desk(call, lambda km: link_keys.begin_exchange(km, _own_link(km, call), number))
    return json_answer(200, ExchangeKey(number, key.reveal()))


@_declared(
    "POST",
    "/blocks",
    Success(204, "Deposited."),
    Content(Block, Block(4, bytes(64), _EXAMPLE_KEY, _LEDGER_EXAMPLE)),
)
async def deposit_block(call: Call[LinkPath, Any, Block]) -> Answer:
    """Bring this end's copy of a distilled block. Both ends compare before either allocates from it."""
    brought = call.body

    def deposit(km: Km, work: Work) -> None:
        link = _own_link(km, call)
        block, withheld = Secret(brought.key), Secret(brought.withheld)
        link_keys.deposit(km, work, link, brought.number, block, brought.ledger, withheld)

    await call.service.worker.call(lambda node: node.begin(deposit))
    return Answer(204)


@_declared(
    "PUT",
    "/measurement",
    Success(204, "Noted, in the place of the last one."),
    Content(Measurement, Measurement(0.0931, distils=False)),
)
async def note_measurement(call: Call[LinkPath, Any, Measurement]) -> Answer:
    """Tell how the light of the link is now, at times when no block tells it: while the link rests, or gives no key."""
    told = call.body

    def note(km: Km) -> None:
        link_keys.measured(km, _own_link(km, call), told.error_rate, distils=told.distils)

    await at_desk(call, note)
    return Answer(204)


OPERATIONS: Final[tuple[Operation, ...]] = (
    read_link,
    install_first_keys,
    begin_exchange,
    deposit_block,
    note_measurement,
)
