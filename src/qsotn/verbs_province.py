"""`qsotn serve`, `init`, `up`, `down`, `openapi` and `pki`: a province made, run and looked after."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from qsotn.errors import UsageError
from qsotn.verbs_common import JsonOption, ProvinceOption, province_folder, sub_verbs

FileOption = Annotated[
    Path | None,
    typer.Option("--province", metavar="FILE", help="The province file [default: a sample with two cities]."),
]

pki = sub_verbs("pki", "The certificates of a province.")


def add_to(app: typer.Typer) -> None:
    """Put these verbs on the command line."""
    app.command(epilog="Example: qsotn init --province province.toml --state province")(init)
    app.command(epilog="Example: qsotn up · qsotn up --province province.toml --state province")(up)
    app.command(epilog="Example: qsotn down --state province")(down)
    app.command(epilog="Example: qsotn serve pomp --config parties/pomp-shandong/service.toml")(serve)
    app.command(epilog="Example: qsotn openapi pomp")(openapi)
    app.add_typer(pki)


def init(province: FileOption = None, state: ProvinceOption = None, as_json: JsonOption = False) -> None:
    """Make a province: certificates, configuration and keys of every party, in one folder."""
    from qsotn.console.init import run_init

    run_init(province, province_folder(state), as_json=as_json)


def up(province: FileOption = None, state: ProvinceOption = None, as_json: JsonOption = False) -> None:
    """Run every party of a province as a process of its own, until Ctrl-C; make the province first if need be."""
    from qsotn.console.up import run_up

    run_up(province, province_folder(state), as_json=as_json)


def down(state: ProvinceOption = None, as_json: JsonOption = False) -> None:
    """Stop a province that `qsotn up` runs, and wait until it has stopped."""
    from qsotn.console.up import run_down

    run_down(province_folder(state), as_json=as_json)


def serve(
    role: Annotated[
        str, typer.Argument(metavar="ROLE", help="pomp, pmp, qssp, km, qkmp, cpe; qkd, the twin; or source.")
    ],
    config: Annotated[Path, typer.Option("--config", metavar="FILE", help="The party's service.toml.")],
) -> None:
    """Serve one party, or feed QKD links from the twin or from sources of others, until SIGTERM or Ctrl-C."""
    from qsotn.domain import Role

    if role == Role.QKD:
        _serve_twin(config)
    elif role == "source":
        _serve_sources(config)
    else:
        _serve_party(role, config)


def _serve_twin(config: Path) -> None:
    from qsotn.service import twin
    from qsotn.service.config import load_twin

    twin.run(load_twin(config))


def _serve_sources(config: Path) -> None:
    from qsotn.service import sources
    from qsotn.service.source_config import load_sources

    sources.run(load_sources(config))


def _serve_party(role: str, config: Path) -> None:
    from qsotn.domain import role_of
    from qsotn.service import host
    from qsotn.service.config import load_configuration

    _served_role(role)
    configuration = load_configuration(config)
    if role_of(configuration.party) != role:
        raise UsageError(
            f"{config} configures {configuration.party}; serve it with: "
            f"qsotn serve {role_of(configuration.party)} --config {config}"
        )
    host.run(configuration)


def _served_role(role: str) -> None:
    from qsotn.service.config import SERVED

    if role not in SERVED:
        raise UsageError(f"no party has the role {role!r}; there are {', '.join(SERVED)}")


def openapi(
    role: Annotated[str, typer.Argument(metavar="ROLE", help="pomp, pmp, qssp, km, qkmp or cpe.")],
) -> None:
    """Print the OpenAPI document of a role's service."""
    from qsotn.domain import Role
    from qsotn.service.http.application import rendered

    _served_role(role)
    typer.echo(rendered(Role(role)).decode(), nl=False)


@pki.command("show", epilog="Example: qsotn pki show --state province")
def show_pki(state: ProvinceOption = None, as_json: JsonOption = False) -> None:
    """List the certificates of a province, and everyone who was revoked."""
    from qsotn.console.pki import show_certificates

    show_certificates(province_folder(state), as_json=as_json)


@pki.command("renew", epilog="Example: qsotn pki renew --all --state province")
def renew_pki(
    everything: Annotated[
        bool, typer.Option("--all", help="All certificates of TLS and both lists, not only what is due.")
    ] = False,
    state: ProvinceOption = None,
    as_json: JsonOption = False,
) -> None:
    """Renew the certificates that have passed two thirds of their life. Services take them up while they run."""
    from qsotn.console.pki import renew_certificates

    renew_certificates(province_folder(state), everything=everything, as_json=as_json)


@pki.command("revoke", epilog="Example: qsotn pki revoke qssp/jinan --state province")
def revoke_pki(
    party: Annotated[str, typer.Argument(metavar="PARTY", help="Whose certificates: role/name.")],
    state: ProvinceOption = None,
    as_json: JsonOption = False,
) -> None:
    """Revoke every certificate of a party, for good. A device is put out of service with `qsotn cpe revoke`."""
    from qsotn.console.pki import revoke_party

    revoke_party(province_folder(state), party, as_json=as_json)
