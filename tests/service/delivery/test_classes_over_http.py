"""Two SAEs of different classes at one key manager's process, over its own listener: who is refused, and with what."""

from __future__ import annotations

import datetime as dt
import os
import time
from pathlib import Path

import pytest
from tests.service.delivery.test_key_manager_process import metrics_of
from tests.service.desks import run
from tests.service.interoperation.installed import JINAN, asking, configured, delivery_of, hosted

from qsotn.adapters.keysource.etsi014 import Etsi014Client
from qsotn.adapters.transport.http import Unavailable
from qsotn.app.installation import create_installation
from qsotn.app.plan import sample_file
from qsotn.domain import Secret
from qsotn.keynetwork.delivery import Deposit, ReadyKey
from qsotn.service.host import Host

CLASSES = """
[[sae]]
name = "bank"
city = "jinan"
class = "gold"

[[sae]]
name = "archive"
city = "jinan"

[[sae]]
name = "branch"
city = "jinan"
class = "gold"

[delivery]
ready_keys = 100

[[delivery.class]]
name = "gold"
guaranteed_percent = 40

[[delivery.class]]
name = "others"
guaranteed_percent = 20
"""


@pytest.fixture(scope="module")
def state(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A province with SAEs of two classes that nobody started."""
    place = tmp_path_factory.mktemp("with-classes")
    file = place / "province.toml"
    file.write_text(sample_file().read_text().replace("first_port = 7400", "first_port = 0") + CLASSES)
    create_installation(file, place / "state", os.urandom, dt.datetime.now(dt.UTC))
    return place / "state"


async def fill(host: Host) -> None:
    """Lay a hundred units into the pool of SAEs that are at the same key manager."""
    delivery = delivery_of(host)
    pool = await delivery.desk.pool(JINAN)
    await delivery._group.apply(Deposit(pool, "laid", 0, tuple(Secret(os.urandom(32)) for _ in range(100))))


async def until_refused(archive: Etsi014Client) -> tuple[int, Unavailable, float]:
    """Ask for ten keys and ten more; return how many were given, the refusal, and how long it took."""
    given = 0
    while True:
        began = time.perf_counter()
        try:
            given += len(await archive.enc_keys("branch", 10, 256))
        except Unavailable as refusal:
            return given, refusal, time.perf_counter() - began


def test_the_lower_class_is_refused_first_and_the_higher_one_goes_on(state: Path) -> None:
    async def story() -> None:
        configuration = configured(state, JINAN)
        async with (
            hosted(configuration) as host,
            asking(state, "bank", configuration) as bank,
            asking(state, "archive", configuration) as archive,
            asking(state, "branch", configuration) as branch,
        ):
            await fill(host)
            given, refusal, took = await until_refused(archive)
            assert given == 70
            assert "the rest is kept for other classes: an SAE of class others may have 0 keys" in str(refusal)
            assert refusal.retry_after_s == 5
            assert took < 0.5
            assert [(await one.status("branch")).stored_key_count for one in (bank, archive)] == [30, 0]
            keys: list[ReadyKey] = []
            for _ in range(3):
                keys += await bank.enc_keys("branch", 10, 256)
                with pytest.raises(Unavailable):
                    await archive.enc_keys("branch", 1, 256)
            assert list(await branch.dec_keys("bank", [one.key_id for one in keys], 256)) == keys
            shown = await metrics_of(host)
            for line in (
                'keys_total{class="gold"} 30.0',
                'keys_total{class="others"} 70.0',
                'refusals_total{class="gold"} 0.0',
            ):
                assert f"qsotn_sae_class_{line}" in shown
            assert 'qsotn_sae_class_refusals_total{class="others"} 4.0' in shown

    run(story())
