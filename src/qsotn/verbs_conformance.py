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
    master_cert: Annotated[Path, typer.Option("--master-cert", metavar="PEM", help="The master SAE's certificate.")],
    slave_cert: Annotated[Path, typer.Option("--slave-cert", metavar="PEM", help="The slave SAE's certificate.")],
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
    as_json: JsonOption = False,
) -> None:
    """Test a key manager against ETSI GS QKD 014 V1.1.1, point by point; it draws some 160 keys at most.

    Over ordinary TLS, 1.2 or higher. Exit code 0 only if no point failed.
    """
    from qsotn.console.conformance import examine_etsi014

    if (additional is None) != (additional_cert is None):
        raise UsageError("--additional and --additional-cert belong together: a further SAE and its certificate")
    behind = slave_url or url
    third = None
    if additional is not None and additional_cert is not None:
        third = (additional, additional_url or behind, additional_cert, additional_key)
    ends = (master, url, master_cert, master_key), (slave, behind, slave_cert, slave_key)
    if not examine_etsi014(*ends, third, ca, as_json=as_json):
        raise typer.Exit(EXIT_FAILED)
