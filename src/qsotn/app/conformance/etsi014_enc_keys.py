"""Points of clauses 5.3, 6.2, 6.3 and 6.5: new keys, and requests for new keys that are refused."""

from __future__ import annotations

from functools import partial

import msgspec

from qsotn.adapters.keysource import etsi014_format as form
from qsotn.app.conformance.asking import BAD_REQUEST, OK, UNAUTHORIZED, Reply
from qsotn.app.conformance.etsi014_run import Run, is_uuid
from qsotn.app.conformance.report import Check, Checks, Fails, Skips

checks: Checks[Run] = Checks()
POST = "POST …/{slave_SAE_ID}/enc_keys"
GET = "GET …/{slave_SAE_ID}/enc_keys"
_MILLION = 10**6


@checks.point("5.3, 6.3", f"{POST} {{}}", "200 in JSON: one key, its ID a UUID, of key_size bits in base64")
async def one_key_of_the_default_size_is_given(run: Run) -> str:
    """Every member of a key request is optional."""
    reply = await run.master.enc_keys(run.slave_sae)
    if reply.status != OK:
        raise Fails(reply.said)
    if reply.content_type != form.JSON:
        raise Fails(f"the content type is {reply.content_type}")
    return _whole(run, reply, 1, run.offered.key_size)


@checks.point("5.3", GET, "200: one key of key_size bits")
async def get_gives_one_key(run: Run) -> str:
    """GET for a request that says nothing."""
    reply = (await run.master.ask("GET", form.path(run.slave_sae, "enc_keys"))).expect(OK)
    return _whole(run, reply, 1, run.offered.key_size)


@checks.point("5.3", f"{GET}?number=2&size=…", "200: two keys of that size")
async def get_takes_a_number_and_a_size(run: Run) -> str:
    """GET for a request of number and size."""
    number, size = min(2, run.offered.max_key_per_request), run.offered.key_size
    path = f"{form.path(run.slave_sae, 'enc_keys')}?number={number}&size={size}"
    return _whole(run, (await run.master.ask("GET", path)).expect(OK), number, size)


@checks.point("6.2", f"{POST} with a size other than key_size", "200: a key of that size, in bits")
async def another_size_is_in_bits(run: Run) -> str:
    """Sizes are bits, not bytes."""
    size = _other_size(run)
    return _whole(run, (await run.master.enc_keys(run.slave_sae, number=1, size=size)).expect(OK), 1, size)


@checks.point("6.2", f"{POST} with the largest number", "200: max_key_per_request different keys")
async def as_many_keys_as_offered_are_given(run: Run) -> str:
    """`number` up to what the status offers; this draws at most 128 keys."""
    number = min(run.offered.max_key_per_request, 128)
    if number > run.offered.stored_key_count:
        raise Skips(f"{run.offered.stored_key_count} keys were stored, {number} are needed")
    return _whole(run, (await run.master.enc_keys(run.slave_sae, number=number)).expect(OK), number, None)


@checks.point("6.2", f"{POST} with an extension_optional of this test", "200: it may be ignored, not refused")
async def an_unknown_optional_extension_is_no_obstacle(run: Run) -> str:
    """What an SAE merely wishes for."""
    reply = await run.master.enc_keys(run.slave_sae, extension_optional=[{"qsotn_wish": {"a": 1}}])
    return _whole(run, reply.expect(OK), 1, None)


def _whole(run: Run, reply: Reply, number: int, size: int | None) -> str:
    """Check new keys: how many, what their IDs are, and their size."""
    keys = run.note(reply, number)
    for key_id, key in keys.items():
        if not is_uuid(key_id):
            raise Fails(f"the key ID {key_id[:80]!r} is no UUID")
        if not key:
            raise Fails(f"key {key_id} is empty")
        if size is not None and len(key) * 8 != size:
            raise Fails(f"key {key_id} has {len(key) * 8} bits, {size} were asked for")
    return f"200, {number} of {len(next(iter(keys.values()))) * 8} bits"


def _other_size(run: Run) -> int:
    offered = run.offered
    for size in (offered.key_size // 2, offered.key_size * 2, offered.max_key_size, offered.min_key_size):
        if offered.min_key_size <= size <= offered.max_key_size and not size % 8 and size != offered.key_size:
            return size
    raise Skips(f"only keys of {offered.key_size} bits are offered")


# --- refused --------------------------------------------------------------------------------------------------------

_REFUSED: tuple[tuple[str, str, dict[str, object]], ...] = (
    ("a-negative-number-is-refused", "6.2", {"number": -1}),
    ("no-keys-at-all-are-refused", "6.2", {"number": 0}),
    ("a-million-keys-are-refused", "6.2", {"number": _MILLION}),
    ("a-fraction-is-no-number", "6.2", {"number": 1.5}),
    ("a-string-is-no-number", "6.2", {"number": "1"}),
    ("true-is-no-number", "6.2", {"number": True}),
    ("a-size-of-zero-is-refused", "6.2", {"number": 1, "size": 0}),
    ("a-negative-size-is-refused", "6.2", {"number": 1, "size": -256}),
)


async def _refused(run: Run, *, members: dict[str, object]) -> str:
    return _error(await run.master.enc_keys(run.slave_sae, **members))


for _name, _clause, _members in _REFUSED:
    _asked = f"{POST} {msgspec.json.encode(_members).decode()}"
    _required = "400, with an error of the standard's form (6.5)"
    checks.add(Check(_name, _clause, _asked, _required, partial(_refused, members=_members)))


@checks.point("6.2", f"{POST} with a size that is no multiple of 8", f"400 {form.SIZE_NOT_A_MULTIPLE!r}")
async def a_size_is_a_multiple_of_8(run: Run) -> str:
    """In the standard's own words."""
    reply = await run.master.enc_keys(run.slave_sae, number=1, size=run.offered.key_size + 1)
    return _error(reply, form.SIZE_NOT_A_MULTIPLE)


@checks.point("6.2", f"{POST} with more than max_key_size bits", "400, with an error of the standard's form (6.5)")
async def a_key_larger_than_offered_is_refused(run: Run) -> str:
    """`size` is bounded by the status."""
    size = (run.offered.max_key_size // 8 + 1) * 8
    return _error(await run.master.enc_keys(run.slave_sae, number=1, size=size))


@checks.point("6.2", f"{POST} with more than max_key_per_request keys", "400, with an error of the standard's form")
async def more_keys_than_offered_are_refused(run: Run) -> str:
    """`number` is bounded by the status."""
    number = run.offered.max_key_per_request + 1
    return _error(await run.master.enc_keys(run.slave_sae, number=number))


@checks.point("6.2", f"{POST} with an extension_mandatory of this test", f"400 {form.MANDATORY_NOT_SUPPORTED!r}")
async def an_unknown_mandatory_extension_is_refused(run: Run) -> str:
    """What an SAE insists on is met or refused."""
    reply = await run.master.enc_keys(run.slave_sae, extension_mandatory=[{"qsotn_demand": "nobody supports this"}])
    return _error(reply, form.MANDATORY_NOT_SUPPORTED)


@checks.point("6.2", f"{POST} with more than max_SAE_ID_count additional SAEs", "400, with an error of its form")
async def more_slaves_than_offered_are_refused(run: Run) -> str:
    """Multicast is bounded by the status; 0 means none."""
    names = [f"qsotn-conformance-{number}" for number in range(run.offered.max_sae_id_count + 1)]
    return _error(await run.master.enc_keys(run.slave_sae, number=1, additional_slave_SAE_IDs=names))


@checks.point("5.3", f"{POST} with a body that is no JSON", "400, with an error of the standard's form (6.5)")
async def garbage_is_refused(run: Run) -> str:
    """Bad request format."""
    return _error(await run.master.ask("POST", form.path(run.slave_sae, "enc_keys"), b'{"number": 1'))


@checks.point("5.3", "POST …/enc_keys for an SAE that nobody knows", "400 or 401, and no key")
async def no_key_is_given_for_an_unknown_slave(run: Run) -> str:
    """An SAE ID that leads nowhere."""
    reply = await run.master.enc_keys("qsotn-conformance-nobody", number=1)
    return reply.expect(BAD_REQUEST, UNAUTHORIZED).said


def _error(reply: Reply, message: str | None = None) -> str:
    """Check an answer of 400; `message` is the standard's own, if it has one, whatever its capitals."""
    reply.expect(BAD_REQUEST)
    if reply.message is None:
        raise Fails("400, without {message, details} of clause 6.5")
    if message is not None and reply.message.strip().rstrip(".").casefold() != message.casefold():
        raise Fails(reply.said)
    return reply.said
