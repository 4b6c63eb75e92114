"""Points of clauses 5.4 and 6.4, and of 5.1 once more: who gets a key, who does not, and that it is given once."""

from __future__ import annotations

from urllib.parse import quote

from qsotn.adapters.keysource import etsi014_format as form
from qsotn.app.conformance.asking import BAD_REQUEST, OK, UNAUTHORIZED, Caller, Reply, keys_of, status_of
from qsotn.app.conformance.etsi014_run import Run, same, unknown_id
from qsotn.app.conformance.report import Checks, Fails, Skips
from qsotn.domain import KeyId

checks: Checks[Run] = Checks()
_BY_CHANCE_DIFFERENT = 8
"""Bytes from which on two keys that are equal are no coincidence."""
POST = "POST …/{master_SAE_ID}/dec_keys"


@checks.point("5.4", f"{POST} with two key IDs, as the slave", "200: the keys that the master has")
async def the_slave_gets_the_same_keys(run: Run) -> str:
    """What it is all for."""
    keys = await run.draw(min(2, run.offered.max_key_per_request))
    await _collected(run, keys)
    return f"200, {len(keys)} keys"


@checks.point("5.4", "GET …/{master_SAE_ID}/dec_keys?key_ID=…", "200: the key that the master has")
async def get_gives_one_key_by_its_id(run: Run) -> str:
    """GET for exactly one key."""
    keys = await run.draw()
    path = f"{form.path(run.master_sae, 'dec_keys')}?key_ID={next(iter(keys))}"
    same(keys_of((await run.slave.ask("GET", path)).expect(OK)), keys)
    return "200"


@checks.point("5.4", f"{POST} again for a key that was delivered, in another request", "400: the key has left the pool")
async def a_delivered_key_is_gone(run: Run) -> str:
    """Asked for alone, where it was delivered with another: a repetition of the same request is something else."""
    if run.offered.max_key_per_request < 2:
        raise Skips("one key a request is offered, and the same request again may be a repetition")
    keys = await run.draw(2)
    await _collected(run, keys)
    for key_id in keys:
        reply = await run.slave.dec_keys(run.master_sae, key_id)
        if reply.status == OK:
            raise Fails(f"key {key_id} was delivered twice")
        reply.expect(BAD_REQUEST)
    return reply.said


@checks.point("5.4, 6.4", f"{POST} with an ID that nobody knows", f"400 {form.KEYS_NOT_FOUND!r}")
async def an_unknown_key_is_a_400(run: Run) -> str:
    """In the standard's own words; 404 is none of its answers."""
    return _not_found(await run.slave.dec_keys(run.master_sae, unknown_id()))


@checks.point("5.4", f"{POST} with a known and an unknown ID, then with the known one", "400, then 200 with the key")
async def keys_are_given_all_or_none(run: Run) -> str:
    """A request that fails takes nothing."""
    keys = await run.draw()
    said = _not_found(await run.slave.dec_keys(run.master_sae, *keys, unknown_id()))
    await _collected(run, keys)
    return f"{said}, then 200"


@checks.point(
    "5.4",
    f"{POST} by the master, which was not named as a slave; then by the slave",
    "401, or 400 where the slave is at another key manager; then 200",
)
async def an_sae_that_was_not_named_gets_nothing(run: Run) -> str:
    """Whoever asks must have been named when the keys were requested; being refused takes nothing either."""
    keys = await run.draw()
    # A key manager at which none of the slaves is has given all there was to give, and may say that it has no such key.
    refusals = (UNAUTHORIZED,) if run.master.url == run.slave.url else (UNAUTHORIZED, BAD_REQUEST)
    said = (await run.master.dec_keys(run.master_sae, *keys)).expect(*refusals).said
    await _collected(run, keys)
    return f"{said}, then 200"


@checks.point("5.4", "POST …/dec_keys with another master in the path, then with the right one", "400 or 401, then 200")
async def a_key_belongs_to_the_master_that_asked_for_it(run: Run) -> str:
    """The path says whose keys are wanted."""
    keys = await run.draw()
    said = (await run.slave.dec_keys(run.slave_sae, *keys)).expect(BAD_REQUEST, UNAUTHORIZED).said
    await _collected(run, keys)
    return f"{said}, then 200"


@checks.point("5.1", "GET …/status as the master, with headers that name the slave", "master_SAE_ID of the certificate")
async def no_header_overrides_the_certificate(run: Run) -> str:
    """The SAE's identity is in its certificate."""
    path, own = form.path(run.slave_sae, "status"), run.offered.master_sae_id
    for name, value in _pretences(run).items():
        reply = await run.master.ask("GET", path, headers={name: value})
        if reply.status == OK and status_of(reply).master_sae_id != own:
            raise Fails(f"with {name}, master_SAE_ID is {status_of(reply).master_sae_id!r}")
    return f"{len(_pretences(run))} headers changed nothing"


@checks.point(
    "5.1, 5.4", f"{POST} by the master, with headers that name the slave; then by the slave", "no key, then 200"
)
async def no_header_opens_another_saes_keys(run: Run) -> str:
    """The same, where it would matter."""
    keys = await run.draw()
    reply = await run.master.dec_keys(run.master_sae, *keys, headers=_pretences(run))
    if reply.status == OK:
        raise Fails("the key was given to whoever a header named")
    await _collected(run, keys)
    return f"{reply.said}, then 200"


def _pretences(run: Run) -> dict[str, str]:
    """Return headers by which proxies, and some key managers, say who a client is."""
    sae = run.slave_sae
    text = sae if sae.isascii() and sae.isprintable() else quote(sae)
    names = ("X-SAE-ID", "X-SAE", "SAE-ID", "X-Client-ID", "X-Client-CN", "X-SSL-Client-CN", "X-Forwarded-User")
    pretences = dict.fromkeys(names, text)
    pretences |= dict.fromkeys(("X-SSL-Client-S-DN", "SSL_CLIENT_S_DN", "X-Client-Subject"), f"CN={text}")
    pretences["X-Forwarded-Client-Cert"] = f'Subject="CN={text}";URI={text}'
    if run.target.slave_certificate:
        escaped = quote(run.target.slave_certificate, safe="")
        pretences |= dict.fromkeys(("X-SSL-Client-Cert", "X-Client-Cert", "SSL-Client-Cert"), escaped)
    return pretences


@checks.point("6.4", f"{POST} without a key ID", "400, with an error of the standard's form (6.5)")
async def no_key_id_is_refused(run: Run) -> str:
    """A request for nothing."""
    reply = (await run.slave.dec_keys(run.master_sae)).expect(BAD_REQUEST)
    if reply.message is None:
        raise Fails("400, without {message, details} of clause 6.5")
    return reply.said


@checks.point(
    "6.2, 5.4", "POST …/enc_keys with an additional slave SAE, then dec_keys by both", "the same key for both"
)
async def every_slave_of_a_multicast_gets_the_same_key(run: Run) -> str:
    """Multicast."""
    if run.offered.max_sae_id_count == 0:
        raise Skips("max_SAE_ID_count is 0: no multicast is offered")
    if run.additional is None or run.target.additional is None:
        raise Skips("no additional SAE was named for this test")
    keys = await run.draw(additional_slave_SAE_IDs=[run.target.additional.sae])
    await _collected(run, keys)
    await _collected(run, keys, run.additional)
    return "200, twice the same key"


@checks.point("6.3", "all keys of this run, together", "no key ID twice, and no key twice")
async def every_key_is_new(run: Run) -> str:
    """Different keys under different IDs."""
    if not run.drawn:
        raise Skips("no key was given")
    by_id = dict(run.drawn)
    if len(by_id) != len(run.drawn):
        raise Fails(f"{len(run.drawn) - len(by_id)} of {len(run.drawn)} key IDs came twice")
    long = [key for key in by_id.values() if len(key) >= _BY_CHANCE_DIFFERENT]
    if len(set(long)) != len(long):
        raise Fails(f"{len(long) - len(set(long))} of {len(long)} keys came twice, under other IDs")
    return f"{len(run.drawn)} different keys"


@checks.point("5", "enough requests to exhaust the key manager", "503, with an error of the standard's form")
async def exhaustion_is_a_503(run: Run) -> str:  # noqa: ARG001 - as every point
    """Not tested: whoever else uses the key manager would be without keys."""
    raise Skips("it would use up the keys of whoever else is served")


async def _collected(run: Run, keys: dict[KeyId, bytes], slave: Caller | None = None) -> None:
    """Check that a slave gets the keys that the master has. Raises `Fails`."""
    reply = await (slave or run.slave).dec_keys(run.master_sae, *keys)
    same(keys_of(reply.expect(OK)), keys)


def _not_found(reply: Reply) -> str:
    reply.expect(BAD_REQUEST)
    if (reply.message or "").strip().rstrip(".").casefold() != form.KEYS_NOT_FOUND.casefold():
        raise Fails(reply.said)
    return reply.said
