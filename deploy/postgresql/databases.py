"""A role and a database for each platform party of a province, so that none can read another's.

    python deploy/postgresql/databases.py province > databases.sql
    psql --host=… --username=postgres --file=databases.sql

For each party whose configuration names a PostgreSQL store this draws a password, writes it to `pgpass` in the party's
folder, where the service finds it when PGPASSFILE says so, and prints the statements for the server's administrator. In
them stands not the password but what the server keeps of it (SCRAM-SHA-256, RFC 5803), so they may be logged.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
import sys
from base64 import b64encode
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

from qsotn.app.files import write_new
from qsotn.app.record import load_record
from qsotn.errors import QsotnError, UsageError
from qsotn.service.config import SQLITE, load_configuration

PASSFILE = "pgpass"
ITERATIONS = 4096
"""PostgreSQL's own; a password of 256 random bits needs no stretching."""


def statements(province: Path) -> Iterator[str]:
    """Write each party's `pgpass`, and yield its statements. Raises `QsotnError`; what was written before stays."""
    record = load_record(province)
    for party, folder in {one.party: province / one.folder for one in record.services}.items():
        url = load_configuration(folder / "service.toml").store.url
        if url == SQLITE:
            continue
        role, database = _named(url, folder)
        password = secrets.token_hex(32)
        _write_password(folder / PASSFILE, database, role, password)
        yield f"-- {party}"
        yield f"""CREATE ROLE "{role}" LOGIN PASSWORD '{verifier(password, os.urandom(16))}';"""
        yield f'CREATE DATABASE "{database}" OWNER "{role}";'
        yield f'REVOKE ALL ON DATABASE "{database}" FROM PUBLIC;'


def _named(url: str, folder: Path) -> tuple[str, str]:
    parts = urlsplit(url)
    role, database = parts.netloc.rpartition("@")[0], parts.path.removeprefix("/")
    if not role or ":" in role or not database or '"' in role + database:
        raise UsageError(f"{folder}/service.toml: expected a store postgresql://USER@HOST/DATABASE without a password")
    return role, database


def _write_password(path: Path, database: str, role: str, password: str) -> None:
    try:
        write_new(path, f"*:*:{database}:{role}:{password}\n".encode())
    except FileExistsError:
        raise UsageError(
            f"{path} is there already, and its password may be in use; remove it to draw another"
        ) from None


def verifier(password: str, salt: bytes) -> str:
    """Return what a server keeps of a password (RFC 5803); the password is of ASCII characters."""
    salted = hashlib.pbkdf2_hmac("sha256", password.encode(), salt, ITERATIONS)
    stored = hashlib.sha256(hmac.digest(salted, b"Client Key", "sha256")).digest()
    server = hmac.digest(salted, b"Server Key", "sha256")
    shown = [b64encode(value).decode() for value in (salt, stored, server)]
    return f"SCRAM-SHA-256${ITERATIONS}:{shown[0]}${shown[1]}:{shown[2]}"


def main() -> int:
    """Print the statements for one province."""
    if len(sys.argv) != 2:
        sys.stderr.write("usage: python databases.py PROVINCE_FOLDER\n")
        return 2
    try:
        for statement in statements(Path(sys.argv[1])):
            sys.stdout.write(f"{statement}\n")
    except QsotnError as error:
        sys.stderr.write(f"databases.py: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
