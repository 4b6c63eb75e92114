"""Points of clauses 5.1, 5.2 and 6.1: who is let in, and what the status says."""

from __future__ import annotations

import aiohttp

from qsotn.adapters.keysource import etsi014_format as form
from qsotn.app.conformance.asking import BAD_REQUEST, OK, UNAUTHORIZED, Caller, status_of
from qsotn.app.conformance.etsi014_run import Context, Run
from qsotn.app.conformance.report import Checks, Fails, Skips

checks: Checks[Run] = Checks()
STATUS = "GET …/{slave_SAE_ID}/status"


@checks.point("5.1", f"{STATUS} without a client certificate", "no answer, or 401")
async def a_client_without_a_certificate_is_refused(run: Run) -> str:
    """Mutual authentication."""
    return await _refused(run, run.target.anonymous)


@checks.point("5.1", f"{STATUS} over TLS 1.1", "no connection: TLS 1.2 or higher")
async def obsolete_tls_is_refused(run: Run) -> str:
    """The version of TLS."""
    if run.target.old is None:
        raise Skips("the TLS library here speaks nothing below 1.2")
    return await _refused(run, run.target.old)


async def _refused(run: Run, context: Context) -> str:
    async with Caller(run.master.url, context) as caller:
        try:
            reply = await caller.attempt("GET", form.path(run.slave_sae, "status"))
        except (TimeoutError, aiohttp.ClientError, OSError) as error:
            return f"no answer: {type(error).__name__}"
    return reply.expect(UNAUTHORIZED).said


@checks.point("5.2, 6.1", STATUS, "200 in JSON, with every member of the standard and of its type")
async def the_status_is_complete(run: Run) -> str:
    """The data format of the status; the other points go by it."""
    reply = (await run.master.status(run.slave_sae)).expect(OK)
    status = run.status = status_of(reply)
    if reply.content_type != form.JSON:
        raise Fails(f"the content type is {reply.content_type}")
    return f"200, {status.stored_key_count} of {status.max_key_count} keys of {status.key_size} bits"


@checks.point("6.1", STATUS, "slave_SAE_ID is the one of the path, master_SAE_ID the calling SAE")
async def the_status_names_both_saes(run: Run) -> str:
    """Whom the status is about."""
    status = run.offered
    came = f"master_SAE_ID {status.master_sae_id!r}, slave_SAE_ID {status.slave_sae_id!r}"
    if (status.master_sae_id, status.slave_sae_id) != (run.master_sae, run.slave_sae):
        raise Fails(came)
    return came


@checks.point("6.1", STATUS, "stored_key_count is at most max_key_count")
async def no_more_keys_are_stored_than_can_be(run: Run) -> str:
    """The count of stored keys."""
    status = run.offered
    came = f"{status.stored_key_count} stored, at most {status.max_key_count}"
    if status.stored_key_count > status.max_key_count:
        raise Fails(came)
    return came


@checks.point("6.1", STATUS, "min_key_size ≤ key_size ≤ max_key_size, in bits")
async def the_key_sizes_are_in_order(run: Run) -> str:
    """The sizes; a key size that is no multiple of 8 cannot travel in base64."""
    status = run.offered
    came = f"{status.min_key_size} ≤ {status.key_size} ≤ {status.max_key_size}"
    if not status.min_key_size <= status.key_size <= status.max_key_size or status.key_size % 8:
        raise Fails(came)
    return came


@checks.point("5.1", "GET …/status with every character of the SAE ID URL-encoded", "200, about the same SAE")
async def an_sae_id_may_be_url_encoded(run: Run) -> str:
    """The encoding of IDs in paths."""
    offered = run.offered
    encoded = "".join(f"%{octet:02X}" for octet in run.slave_sae.encode())
    reply = (await run.master.ask("GET", f"{form.PREFIX}{encoded}/status")).expect(OK)
    named = status_of(reply).slave_sae_id
    if named != offered.slave_sae_id:
        raise Fails(f"slave_SAE_ID {named!r}")
    return reply.said


@checks.point("5.2", "GET …/status about an SAE that nobody knows", "400 or 401")
async def an_unknown_slave_is_refused(run: Run) -> str:
    """An SAE ID that leads nowhere."""
    return (await run.master.status("qsotn-conformance-nobody")).expect(BAD_REQUEST, UNAUTHORIZED).said
