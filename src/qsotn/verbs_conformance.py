"""`qsotn conformance STANDARD URL`: tests of anybody's key manager against a standard."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from qsotn.errors import UsageError
from qsotn.verbs_common import EXIT_FAILED, JsonOption, sub_verbs

conformance = sub_verbs("conformance", "Tests of key managers, of this project or of others, against a standard.")


@conformance.callback()
def _group() -> None:
    """Tests of key managers, of this project or of others, against a standard."""


def add_to(app: typer.Typer) -> None:
    """Put these verbs on the command line."""
    app.add_typer(conformance)


@conformance.command(
    epilog="Example: qsotn conformance etsi014 https://kme-a:8443 --slave sae-b --master-cert a.pem --master-key a.key "
    "--slave-url https://kme-b:8443 --slave-cert b.pem --slave-key b.key --ca ca.pem --json"
)
def etsi014(
    url: Annotated[str, typer.Argument(metavar="URL", help="The master SAE's key manager: https://HOST:PORT.")],
    slave: Annotated[str, typer.Option("--slave", metavar="SAE", help="The slave SAE's ID.")],
    master_cert: Annotated[
        Path | None, typer.Option("--master-cert", metavar="PEM", help="The master SAE's certificate.")
    ] = None,
    slave_cert: Annotated[
        Path | None, typer.Option("--slave-cert", metavar="PEM", help="The slave SAE's certificate.")
    ] = None,
    slave_url: Annotated[
        str | None, typer.Option("--slave-url", metavar="URL", help="The slave SAE's key manager [default: URL].")
    ] = None,
    master: Annotated[
        str, typer.Option("--master", metavar="SAE", help="The master SAE's ID [default: what the status says].")
    ] = "",
    master_key: Annotated[
        Path | None, typer.Option("--master-key", metavar="PEM", help="[default: in the certificate's file]")
    ] = None,
    slave_key: Annotated[
        Path | None, typer.Option("--slave-key", metavar="PEM", help="[default: in the certificate's file]")
    ] = None,
    additional: Annotated[
        str | None, typer.Option("--additional", metavar="SAE", help="A further slave SAE, to test multicast.")
    ] = None,
    additional_cert: Annotated[
        Path | None, typer.Option("--additional-cert", metavar="PEM", help="Its certificate.")
    ] = None,
    additional_key: Annotated[
        Path | None, typer.Option("--additional-key", metavar="PEM", help="[default: in the certificate's file]")
    ] = None,
    additional_url: Annotated[
        str | None, typer.Option("--additional-url", metavar="URL", help="Its key manager [default: the slave's].")
    ] = None,
    ca: Annotated[
        Path | None, typer.Option("--ca", metavar="PEM", help="The CA of the key managers [default: the system's].")
    ] = None,
    post_quantum: Annotated[
        Path | None,
        typer.Option(
            "--post-quantum",
            metavar="DIR",
            help="A province of this project: its SAEs, and their key managers, over its post-quantum TLS.",
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Test a key manager against ETSI GS QKD 014 V1.1.1, point by point; it draws some 160 keys at most.

    Over ordinary TLS, 1.2 or higher, or over the post-quantum TLS of a province of this project. Then its folder has
    the certificates, and a further key manager is an SAE's own. Exit code 0 only if no point failed.
    """
    ends = [(master, url), (slave, slave_url), *([] if additional is None else [(additional, additional_url)])]
    pairs = [(master_cert, master_key), (slave_cert, slave_key), (additional_cert, additional_key)]
    if post_quantum is not None:
        conforms = _own_examined(post_quantum, ends, [*(one for pair in pairs for one in pair), ca], as_json=as_json)
    else:
        conforms = _ordinary_examined(ends, pairs, ca, as_json=as_json)
    if not conforms:
        raise typer.Exit(EXIT_FAILED)


def _own_examined(state: Path, ends: list[tuple[str, str | None]], files: list[Path | None], *, as_json: bool) -> bool:
    from qsotn.console.conformance import examine_own

    if not ends[0][0] or any(one is not None for one in files):
        raise UsageError("--post-quantum DIR needs --master, and no certificates, keys or CA: DIR has them")
    return examine_own(state, ends, as_json=as_json)


def _ordinary_examined(
    ends: list[tuple[str, str | None]], pairs: list[tuple[Path | None, Path | None]], ca: Path | None, *, as_json: bool
) -> bool:
    from qsotn.console.conformance import examine_etsi014

    if (len(ends) == len(pairs)) != (pairs[-1][0] is not None):
        raise UsageError("--additional and --additional-cert belong together: a further SAE and its certificate")
    saes, before = [], ""
    for (sae, url), (certificate, key) in zip(ends, pairs, strict=False):
        if certificate is None:
            raise UsageError("--master-cert and --slave-cert are needed, or --post-quantum for a province's own SAEs")
        before = url or before
        saes.append((sae, before, certificate, key))
    return examine_etsi014(saes, ca, as_json=as_json)
