"""Province files: what follows from a good one, and what is said about a bad one."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from pathlib import Path

import pytest

from qsotn.app import province
from qsotn.app.plan import Plan, read_plan, sample_file, sample_plan
from qsotn.app.plan_checks import ports_needed
from qsotn.app.routes import next_hops
from qsotn.domain import PartyId
from qsotn.errors import UsageError
from qsotn.parties.km import KmConfiguration
from qsotn.parties.qssp import QsspConfiguration

GOOD = """
name = "shandong"
[[city]]
name = "jinan"
[[city]]
name = "qingdao"
[[relay]]
name = "weifang"
[[link]]
name = "west"
ends = ["jinan", "weifang"]
[[link]]
name = "east"
ends = ["weifang", "qingdao"]
[[cpe]]
name = "jinan-1"
city = "jinan"
serial_number = "S-1"
[[cpe]]
name = "qingdao-1"
city = "qingdao"
serial_number = "S-2"
[[cpe]]
name = "qingdao-2"
city = "qingdao"
serial_number = "S-3"
[[fibre]]
ends = ["jinan-1", "qingdao-1"]
"""
POSTGRESQL = '[store]\nurl = "postgresql://qsotn@db.example/qsotn_{party}"\n'


def written(folder: Path, text: str) -> Path:
    path = folder / "province.toml"
    path.write_text(text)
    return path


def plan_of(folder: Path, text: str) -> Plan:
    return read_plan(written(folder, text))


def test_the_sample_is_the_province_of_the_demo() -> None:
    plan = sample_plan()
    assert plan.parties == province.PARTIES
    assert plan.platform == (
        "pomp/shandong",
        "qkmp/shandong",
        "pmp/shandong",
        "qssp/jinan",
        "qssp/qingdao",
        "km/jinan",
        "km/qingdao",
        "km/weifang",
    )
    assert (province.KM_A, province.KM_B, province.KM_RELAY) == ("km/jinan", "km/qingdao", "km/weifang")
    assert province.LINKS == {
        "jinan-weifang": ("km/jinan", "km/weifang"),
        "weifang-qingdao": ("km/weifang", "km/qingdao"),
    }
    assert province.HOMES == {"cpe/jinan-1": "qssp/jinan", "cpe/qingdao-1": "qssp/qingdao"}
    assert province.SERIALS == {"cpe/jinan-1": "QS-2026-000001", "cpe/qingdao-1": "QS-2026-000002"}
    assert plan.lines == ((province.CPE_A, province.CPE_B),)


def test_the_sample_writes_out_the_defaults(tmp_path: Path) -> None:
    bare = sample_file().read_text().partition("[listen]")[0]
    assert plan_of(tmp_path, bare) == sample_plan()


def test_each_party_is_configured_for_where_it_stands(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, GOOD)
    west, relay = plan.configuration(PartyId("km/jinan")), plan.configuration(PartyId("km/weifang"))
    attachments = {PartyId("qssp/jinan"): PartyId("km/jinan"), PartyId("qssp/qingdao"): PartyId("km/qingdao")}
    weifang, jinan, qingdao = PartyId("km/weifang"), PartyId("km/jinan"), PartyId("km/qingdao")
    assert west == KmConfiguration({"west": weifang}, {weifang: weifang, qingdao: weifang}, attachments)
    assert relay == KmConfiguration({"west": jinan, "east": qingdao}, {jinan: jinan, qingdao: qingdao}, attachments)
    assert plan.configuration(PartyId("qssp/jinan")) == QsspConfiguration(jinan, plan.qkmp, plan.pmp)
    assert plan.configuration(plan.pomp) is plan.configuration(plan.pmp) is None


@pytest.mark.parametrize(
    ("party", "others"),
    [
        ("pomp/shandong", {"pmp/shandong", "qssp/jinan", "qssp/qingdao"}),
        ("pmp/shandong", {"pomp/shandong", "qssp/jinan", "qssp/qingdao"}),
        ("qkmp/shandong", {"qssp/jinan", "qssp/qingdao", "km/jinan", "km/weifang", "km/qingdao"}),
        ("qssp/jinan", {"pomp/shandong", "pmp/shandong", "qkmp/shandong", "km/jinan", "qssp/qingdao"}),
        ("km/jinan", {"qssp/jinan", "km/weifang", "km/qingdao"}),
        ("km/weifang", {"km/jinan", "km/qingdao"}),
        ("cpe/jinan-1", {"pmp/shandong"}),
    ],
)
def test_a_party_sends_only_to_those_its_interfaces_join_it_to(tmp_path: Path, party: str, others: set[str]) -> None:
    assert set(plan_of(tmp_path, GOOD).correspondents(PartyId(party))) == others


SAES = """
[[sae]]
name = "bank"
city = "jinan"
[[sae]]
name = "branch"
city = "qingdao"
"""


BORDER = """
[border]
city = "jinan"
own_url = "https://border.east:1"
certificate = "/b.pem"
key = "/b.key"
authority = "/operators.pem"
[[border.operator]]
name = "border.west"
url = "https://border.west:1"
saes = ["bank-west"]
"""


def test_key_managers_with_saes_know_each_other(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, GOOD + SAES)
    assert plan.sae_homes == {"bank": "km/jinan", "branch": "km/qingdao"}
    known = {str(km): set(plan.correspondents(PartyId(km))) for km in plan.kms}
    assert known["km/jinan"] == {"qssp/jinan", "km/weifang", "km/qingdao"}
    assert known["km/weifang"] == {"km/jinan", "km/qingdao"}


@pytest.mark.parametrize(("setting", "more"), [("", 2), ("[delivery]\nfirst_port = 9000", 0)])
def test_a_listener_for_saes_takes_a_port_behind_the_others_or_of_its_own(
    tmp_path: Path, setting: str, more: int
) -> None:
    assert ports_needed(plan_of(tmp_path, GOOD + SAES + setting)) - ports_needed(plan_of(tmp_path, GOOD)) == more


@pytest.mark.parametrize(
    ("tables", "more"),
    [
        (f"{SAES}[streams]", 4),
        (f"{SAES}[streams]\nfirst_port = 9100", 2),
        (f"{SAES}{BORDER}", 3),
        (SAES + BORDER.replace("city", "port = 9200\ncity"), 2),
        (BORDER, 2),
    ],
)
def test_streams_and_the_border_take_ports_behind_the_others_or_of_their_own(
    tmp_path: Path, tables: str, more: int
) -> None:
    assert ports_needed(plan_of(tmp_path, GOOD + tables)) - ports_needed(plan_of(tmp_path, GOOD)) == more


def test_shares_are_taken_where_there_are_as_many_ways(tmp_path: Path) -> None:
    direct = '[[link]]\nname = "direct"\nends = ["jinan", "qingdao"]\n'
    assert plan_of(tmp_path, f"{GOOD}{direct}{SAES}[delivery]\nshares = 2").delivery.shares == 2
    assert plan_of(tmp_path, f"{GOOD}[delivery]\nshares = 2").delivery.shares == 2, "nobody shares keys here"


# --- what is wrong --------------------------------------------------------------------------------------------------

WRONG: dict[str, tuple[tuple[str, str], str]] = {
    "no TOML": (('name = "shandong"', "name ="), r"is no TOML file: Invalid value \(at line 2"),
    "unknown key": (
        ('city = "jinan"', 'city = "jinan"\nhome = "jinan"'),
        r"\[\[cpe\]\] number 1: unknown key 'home'; known there are name, city, serial_number, odu_types, suites",
    ),
    "unknown table": (
        ('name = "shandong"', 'name = "shandong"\nplanet = 3'),
        r"unknown key 'planet'; known there are name, city, relay, link, cpe, fibre, listen, store",
    ),
    "a key of a table with the wrong type": (
        ('name = "shandong"', 'name = "shandong"\nlisten = {first_port = "7400"}'),
        r"\[listen\], first_port: Expected `int`, got `str`",
    ),
    "three ends": (
        ('ends = ["jinan", "weifang"]', 'ends = ["jinan", "weifang", "qingdao"]'),
        r"\[\[link\]\] number 1, ends: Expected `array` of length 2, got 3",
    ),
    "a missing key": (('serial_number = "S-2"', ""), r"\[\[cpe\]\] number 2: .*missing required field `serial_number`"),
    "a name that is no name": (
        ('name = "jinan"', 'name = "Jinan/1"'),
        r"\[\[city\]\] number 1, name: 'Jinan/1' is no name; a name is 1 to 40 small letters",
    ),
    "the province's name": (('name = "shandong"', 'name = "-"'), r"name: '-' is no name"),
    "two cities of a name": (
        ('name = "qingdao"\n[[relay]]', 'name = "jinan"\n[[relay]]'),
        r"\[\[city\]\] or \[\[relay\]\] 'jinan': there are two of that name; give each its own",
    ),
    "a relay with a city's name": (('name = "weifang"', 'name = "qingdao"'), r"'qingdao': there are two of that name"),
    "two links of a name": (('name = "east"', 'name = "west"'), r"\[\[link\]\] 'west': there are two of that name"),
    "two devices of a name": (('name = "qingdao-2"', 'name = "qingdao-1"'), r"\[\[cpe\]\] 'qingdao-1': there are two"),
    "two devices with one serial number": (
        ('serial_number = "S-3"', 'serial_number = "S-2"'),
        r"\[\[cpe\]\] serial_number 'S-2': two devices have it",
    ),
    "a link to nowhere": (
        ('ends = ["weifang", "qingdao"]', 'ends = ["weifang", "yantai"]'),
        r"\[\[link\]\] 'east', ends: there is no city or relay 'yantai'; there are jinan, qingdao, weifang",
    ),
    "a link to itself": (
        ('ends = ["jinan", "weifang"]', 'ends = ["jinan", "jinan"]'),
        r"\[\[link\]\] 'west', ends: both are 'jinan'; a link joins two places",
    ),
    "two links between two places": (
        ('ends = ["weifang", "qingdao"]', 'ends = ["weifang", "jinan"]'),
        r"\[\[link\]\] 'east', ends: link 'west' joins these two already",
    ),
    "a device in no city": (
        ('city = "jinan"', 'city = "weifang"'),
        r"\[\[cpe\]\] 'jinan-1', city: there is no city 'weifang'; there are jinan, qingdao",
    ),
    "a serial number that cannot be certified": (('"S-1"', '"S 1"'), r"\[\[cpe\]\] 'jinan-1', serial_number: 'S 1'"),
    "an unknown ODU type": (
        ('serial_number = "S-1"', 'serial_number = "S-1"\nodu_types = ["ODU9"]'),
        r"\[\[cpe\]\] 'jinan-1', odu_types: 'ODU9' is none; there are ODU0, ODU1, ODU2",
    ),
    "no ODU type": (
        ('serial_number = "S-1"', 'serial_number = "S-1"\nodu_types = []'),
        r"\[\[cpe\]\] 'jinan-1', odu_types: the list is empty",
    ),
    "an unknown suite": (
        ('serial_number = "S-1"', 'serial_number = "S-1"\nsuites = [1, 4]'),
        r"\[\[cpe\]\] 'jinan-1', suites: 4 is none; there are 1, 2, 3",
    ),
    "a fibre to no device": (
        ('ends = ["jinan-1", "qingdao-1"]', 'ends = ["jinan-1", "qingdao-3"]'),
        r"\[\[fibre\]\] number 1, ends: there is no cpe 'qingdao-3'; there are jinan-1, qingdao-1, qingdao-2",
    ),
    "a fibre from a device to itself": (
        ('ends = ["jinan-1", "qingdao-1"]', 'ends = ["jinan-1", "jinan-1"]'),
        r"\[\[fibre\]\] number 1, ends: both are 'jinan-1'",
    ),
    "no way between two cities": (
        ('ends = ["weifang", "qingdao"]', 'ends = ["qingdao", "yantai"]\n[[relay]]\nname = "yantai"'),
        r"\[\[link\]\]: no links lead from 'jinan' to 'qingdao'; every two cities need a way over QKD links",
    ),
    "a relay without a link": (
        ('name = "weifang"', 'name = "weifang"\n[[relay]]\nname = "yantai"'),
        r"\[\[link\]\]: none ends at 'yantai'; its key manager needs a QKD link",
    ),
}
APPENDED: dict[str, tuple[str, str]] = {
    "a device in two fibres": (
        '[[fibre]]\nends = ["qingdao-2", "jinan-1"]',
        r"\[\[fibre\]\] number 2, ends: 'jinan-1' is at the end of another fibre; a device has one line port",
    ),
    "a store that is none": (
        '[store]\nurl = "mysql://root:hidden@host"',
        r"\[store\] url: this is no store; there are",
    ),
    "replicas on SQLite": (
        "[replicas]\npmp = 2",
        r"\[replicas\] pmp: 2 processes cannot share SQLite; set \[store\] url",
    ),
    "no replica": ("[replicas]\nkm = 0", r"\[replicas\] km: 0 is out of range; there may be 1 to 16"),
    "replicas of a device": (
        "[replicas]\ncpe = 2",
        r"\[replicas\]: unknown key 'cpe'; known there are pomp, pmp, qkmp",
    ),
    "a lifetime without length": ("[certificates]\nlifetime_days = 0", r"\[certificates\] lifetime_days: 0 is out of"),
    "a lifetime that is no number": ("[certificates]\nlifetime_days = nan", r"\[certificates\] lifetime_days: nan is"),
    "no keys": ("[keys]\nfill_bits = 0", r"\[keys\] fill_bits: 0 is out of range; there may be 1 to"),
    "a port of the system": ("[listen]\nfirst_port = 80", r"\[listen\] first_port: 80 is out of range; .* 1024 to"),
    "ports beyond the last": (
        "[listen]\nfirst_port = 65510",
        r"\[listen\] first_port: 65510 is out of range; .* 27 ports, so that its first may be 1024 to 65509, or 0",
    ),
    "an SAE in no city": (
        '[[sae]]\nname = "bank"\ncity = "weifang"',
        r"\[\[sae\]\] 'bank', city: there is no city 'weifang'; there are jinan, qingdao",
    ),
    "two SAEs of a name": (
        '[[sae]]\nname = "bank"\ncity = "jinan"\n[[sae]]\nname = "bank"\ncity = "qingdao"',
        r"\[\[sae\]\] 'bank': there are two of that name; give each its own",
    ),
    "an SAE's name that is none": ('[[sae]]\nname = "a/b"\ncity = "jinan"', r"\[\[sae\]\] number 1, name: 'a/b' is no"),
    "a delivery port of the system": (
        "[delivery]\nfirst_port = 443",
        r"\[delivery\] first_port: 443 is out of range; there may be 1024 to",
    ),
    "two classes of a name": (
        '[[delivery.class]]\nname = "a"\nguaranteed_percent = 1\n' * 2,
        r"\[\[delivery.class\]\] number 2, name: 'a' stands there twice; give each class its own",
    ),
    "more guaranteed than there is": (
        "\n".join(
            f'[[delivery.class]]\nname = "{name}"\nguaranteed_percent = {of}' for name, of in (("a", 70), ("b", 31))
        ),
        r"\[\[delivery.class\]\] guaranteed_percent: they are 101 together; expected at most 100",
    ),
    "an SAE of no class": (
        '[[sae]]\nname = "bank"\ncity = "jinan"\nclass = "gold"',
        r"\[\[sae\]\] 'bank', class: there is no class 'gold'; there is no \[\[delivery.class\]\]",
    ),
    "no ready keys": ("[delivery]\nready_keys = 0", r"\[delivery\] ready_keys: 0 is out of range; there may be 1 to"),
    "another TLS": ('[delivery]\ntls = "none"', r"\[delivery\], tls: .*expected one of 'post-quantum', 'standard'"),
    "standard TLS without its files": (
        '[delivery]\ntls = "standard"\ncertificate = "/c.pem"\nkey = "k.pem"',
        r"\[delivery\] key: 'k.pem' is no absolute path; with tls = \"standard\", name a PEM file by one",
    ),
    "a file that nobody reads": (
        '[delivery]\nclient_ca = "/ca.pem"',
        r"\[delivery\] client_ca: with tls = \"post-quantum\", leave it out",
    ),
    "a list that nobody reads": (
        '[delivery]\nclient_list = "/ca.crl"',
        r"\[delivery\] client_list: with tls = \"post-quantum\", leave it out",
    ),
    "no host": ('[listen]\nhost = ""', r"\[listen\] host: it is empty"),
    "streams for nobody": ("[streams]", r"\[streams\]: there is no \[\[sae\]\] to give streams to"),
    "streams of two processes": (
        f"{SAES}{POSTGRESQL}[replicas]\nkm = 2\n[streams]",
        r"\[streams\]: 2 processes for each key manager cannot share it; set \[replicas\] km to 1",
    ),
    "a port of the system for streams": (
        f"{SAES}[streams]\nfirst_port = 80",
        r"\[streams\] first_port: 80 is out of range; there may be 1024 to 65534",
    ),
    "a border in no city": (BORDER.replace("jinan", "weifang"), r"\[border\] city: there is no city 'weifang'"),
    "a border at no origin": (BORDER.replace("https://border.east:1", "here"), r"\[border\] own_url: 'here' is no URL"),
    "a border's file beside the province": (
        BORDER.replace("/b.key", "b.key"),
        r"\[border\] key: 'b.key' is no absolute path; name a PEM file by one",
    ),
    "a border to nobody": (f"{BORDER.partition('[[border.operator]]')[0]}operator = []", r"\[border\]: there is no"),
    "a border's port of the system": (
        BORDER.replace("city", "port = 25\ncity"),
        r"\[border\] port: 25 is out of range; there may be 1024 to 65535, or 0 for any",
    ),
    "an SAE here and there": (
        f'{BORDER}[[sae]]\nname = "bank-west"\ncity = "jinan"',
        r"\[\[border.operator\]\] number 1, saes: 'bank-west' stands under \[\[sae\]\], too",
    ),
    "more shares than ways": (
        f"{SAES}[delivery]\nshares = 2",
        r"\[delivery\] shares: 2 is too many between 'jinan' and 'qingdao': 1 node.*; every way .* uses km/weifang;",
    ),
    "more shares than ways to the border": (
        f'{BORDER}[[sae]]\nname = "branch"\ncity = "qingdao"\n[delivery]\nshares = 2',
        r"\[delivery\] shares: 2 is too many between 'jinan' and 'qingdao'",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_mistake_is_named_with_file_table_and_what_would_be_right(tmp_path: Path, name: str) -> None:
    (old, new), told = WRONG[name]
    assert old in GOOD
    with pytest.raises(UsageError, match=rf"province\.toml.*{told}") as caught:
        plan_of(tmp_path, GOOD.replace(old, new, 1))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", APPENDED)
def test_a_setting_out_of_range_is_named_with_its_range(tmp_path: Path, name: str) -> None:
    text, told = APPENDED[name]
    with pytest.raises(UsageError, match=rf"province\.toml: {told}") as caught:
        plan_of(tmp_path, GOOD + text)
    assert "hidden" not in str(caught.value)


def test_what_is_just_within_range_is_taken(tmp_path: Path) -> None:
    text = f"{GOOD}{POSTGRESQL}[replicas]\npomp = 3\n[listen]\nfirst_port = 65505\n[keys]\nfill_bits = 1\n"
    assert plan_of(tmp_path, text).replicas.pomp == 3


def test_a_province_without_a_city_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"\[\[city\]\]: there is none; a province has at least one city"):
        plan_of(tmp_path, 'name = "empty"\ncity = []\n')


@pytest.mark.parametrize(("content", "told"), [(None, "No such file"), (b"\xff", "is no TOML file")])
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, content: bytes | None, told: str) -> None:
    path = tmp_path / "province.toml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UsageError, match=rf"province\.toml.*{told}"):
        read_plan(path)


def test_every_process_and_fibre_has_its_ports(tmp_path: Path) -> None:
    """Two for each of eleven processes, one for the twin, four for the fibre; a replica takes two more."""
    assert ports_needed(plan_of(tmp_path, GOOD)) == 2 * 11 + 1 + 4
    assert ports_needed(plan_of(tmp_path, f"{GOOD}{POSTGRESQL}[replicas]\nqssp = 2\n")) == 2 * 13 + 1 + 4


# --- routes ---------------------------------------------------------------------------------------------------------


def joined(pairs: str) -> list[tuple[PartyId, PartyId]]:
    return [(PartyId(pair[0]), PartyId(pair[1])) for pair in pairs.split()]


def followed(hops: dict[PartyId, dict[PartyId, PartyId]], origin: str, target: str) -> str:
    way = [PartyId(origin)]
    while way[-1] != target:
        way.append(hops[way[-1]][PartyId(target)])
        assert len(way) < 20, "in a circle"
    return "".join(way)


@pytest.mark.parametrize(
    ("links", "origin", "target", "way"),
    [
        ("ab bc", "a", "c", "abc"),
        ("ab bc ac", "a", "c", "ac"),
        ("ab bd ac cd", "a", "d", "abd"),
        ("ac cd ab bd", "a", "d", "abd"),
        ("az zy ab bc cy", "a", "y", "azy"),
        ("az zy ab bc cy", "c", "a", "cba"),
    ],
)
def test_keys_take_the_fewest_links_whatever_their_order(links: str, origin: str, target: str, way: str) -> None:
    assert followed(next_hops(joined(links)), origin, target) == way


def test_every_route_in_a_grid_is_a_shortest_one() -> None:
    """Held against distances that are computed another way, in a network with many ways of equal length."""
    places = [f"{column}{row}" for column in range(4) for row in range(4)]
    links = [(one, other) for one in places for other in places if one < other and _adjacent(one, other)]
    hops = next_hops((PartyId(one), PartyId(other)) for one, other in links)
    assert hops == next_hops((PartyId(other), PartyId(one)) for one, other in reversed(links))
    assert all(list(routes) == sorted(routes) for routes in hops.values()), "the same configuration, byte for byte"
    for origin in places:
        for target, distance in _distances(origin, links).items():
            way, here = 0, origin
            while here != target:
                here, way = hops[PartyId(here)][PartyId(target)], way + 1
            assert way == distance


def _adjacent(one: str, other: str) -> bool:
    return abs(int(one[0]) - int(other[0])) + abs(int(one[1]) - int(other[1])) == 1


def _distances(origin: str, links: Iterable[tuple[str, str]]) -> dict[str, int]:
    pairs = list(links)
    found, waiting = {origin: 0}, deque([origin])
    while waiting:
        here = waiting.popleft()
        for one, other in (*pairs, *((other, one) for one, other in pairs)):
            if one == here and other not in found:
                found[other] = found[here] + 1
                waiting.append(other)
    return found


def test_an_island_has_no_routes_to_the_mainland() -> None:
    hops = next_hops(joined("ab cd"))
    assert set(hops[PartyId("a")]) == {"b"}
