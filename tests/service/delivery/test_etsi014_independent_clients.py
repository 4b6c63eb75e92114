"""Clients that share nothing with ours: the standard library's HTTP over its TLS, and curl."""

from __future__ import annotations

import http.client
import json
import shutil
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest
from tests.service.delivery.etsi014_world import (
    MASTER,
    SLAVE,
    Certificates,
    MemoryDelivery,
    make_certificates,
    served_aside,
)

from qsotn.adapters.keysource.etsi014_format import path

CURL = shutil.which("curl")


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return make_certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture
def port(certificates: Certificates) -> Iterator[int]:
    with served_aside(MemoryDelivery(), certificates.server_context) as opened:
        yield opened


def test_the_standard_librarys_client_gets_keys_at_both_ends(certificates: Certificates, port: int) -> None:
    master, slave = (
        http.client.HTTPSConnection("localhost", port, timeout=5, context=certificates.client(sae))
        for sae in (MASTER, SLAVE)
    )

    def ask(client: http.client.HTTPSConnection, verb: str, target: str, body: object = None) -> tuple[int, Any]:
        headers = {"Content-Type": "application/json"} if body is not None else {}
        client.request(verb, target, None if body is None else json.dumps(body), headers)
        response = client.getresponse()
        return response.status, json.loads(response.read())

    try:
        assert ask(master, "GET", path(SLAVE, "status"))[1]["slave_SAE_ID"] == SLAVE
        status, given = ask(master, "POST", path(SLAVE, "enc_keys"), {"number": 2, "size": 512})
        wanted = {"key_IDs": [{"key_ID": key["key_ID"]} for key in given["keys"]]}
        assert (status, len(given["keys"])) == (200, 2)
        assert ask(slave, "POST", path(MASTER, "dec_keys"), wanted) == (200, given)
        assert ask(master, "POST", path(SLAVE, "enc_keys"), {"size": 7})[0] == 400
    finally:
        master.close()
        slave.close()


@pytest.mark.skipif(CURL is None, reason="curl is not installed")
def test_curl_gets_keys_at_both_ends(certificates: Certificates, port: int) -> None:
    def ask(sae: str, target: str, *options: str) -> tuple[int, Any]:
        certificate, key = certificates.saes[sae]
        trust = ("--cacert", str(certificates.authority.ca), "--cert", str(certificate), "--key", str(key))
        command = [str(CURL), "--silent", "--show-error", "--max-time", "5", "--write-out", "\n%{http_code}", *trust]
        url = f"https://localhost:{port}{target}"
        shown = subprocess.run([*command, *options, url], capture_output=True, text=True, check=True).stdout
        body, _, code = shown.rpartition("\n")
        return int(code), json.loads(body)

    kind = ("--header", "Content-Type: application/json")
    assert ask(MASTER, path(SLAVE, "status"))[1]["master_SAE_ID"] == MASTER
    status, given = ask(MASTER, path(SLAVE, "enc_keys"), *kind, "--data", '{"number": 2}')
    wanted = json.dumps({"key_IDs": [{"key_ID": key["key_ID"]} for key in given["keys"]]})
    assert status == 200
    chunked = ("--header", "Transfer-Encoding: chunked")
    assert ask(SLAVE, path(MASTER, "dec_keys"), *kind, *chunked, "--data", wanted) == (200, given)
    assert ask(SLAVE, path(MASTER, "dec_keys"), *kind, "--data", wanted)[0] == 400
    assert ask(MASTER, path(SLAVE, "enc_keys") + "?number=1", "--tls-max", "1.2")[0] == 200
    assert ask(MASTER, path(SLAVE, "enc_keys"), "--data", "number=1")[0] == 400
    assert ask(MASTER, path(SLAVE, "enc_keys"), "--http1.0")[0] == 505
