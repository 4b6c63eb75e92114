"""`service.toml`: what a service takes from it, and what it says about a bad one."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest

from qsotn.errors import UsageError
from qsotn.service.config import LineSection, load_configuration, load_twin, split_address
from qsotn.service.interoperation.configuration import StreamsSection
from qsotn.service.source_config import load_sources
from qsotn.service.toml_file import write_toml

TLS = """
certificate = "transport.pem"
key = "/elsewhere/transport.key"
operator_root = "operator.pem"
manufacturer_root = "manufacturer.pem"
operator_list = "operator.crl"
manufacturer_list = "manufacturer.crl"
"""
CPE = f"""
party = "cpe/jinan-1"
state = "."
courier = "pmp/shandong"
[listen]
address = "127.0.0.1:7401"
[tls]{TLS}
[peers]
"pmp/shandong" = ["https://127.0.0.1:7402", "https://[::1]:7403"]
[line]
local = "127.0.0.1:7501"
remote = "127.0.0.1:7502"
client_port = "127.0.0.1:7503"
"""
KM = f"""
party = "km/jinan"
state = "state"
[listen]
address = "127.0.0.1:7401"
monitoring = "127.0.0.1:7402"
[store]
url = "postgresql://qsotn:hidden@host/km"
[tls]{TLS}
[peers]
"km/weifang" = ["https://127.0.0.1:7404"]
[links]
west = "km/weifang"
"""
TWIN = f"""
state = "."
[keys]
fill_bits = 1024
[peers]
"km/jinan" = ["https://127.0.0.1:7403"]
"km/weifang" = ["https://127.0.0.1:7404"]
[[link]]
name = "west"
ends = ["km/jinan", "km/weifang"]
[link.tls]{TLS}
"""


def written(folder: Path, text: str) -> Path:
    path = folder / "service.toml"
    path.write_text(text)
    return path


def test_paths_are_relative_to_the_file_whatever_the_working_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written(tmp_path, KM)
    monkeypatch.chdir(tmp_path)
    configuration = load_configuration(Path("service.toml"))
    assert configuration.state == tmp_path / "state"
    assert configuration.tls.certificate == tmp_path / "transport.pem"
    assert configuration.tls.key == Path("/elsewhere/transport.key")


def test_a_device_has_a_line_and_its_pmp_alone(tmp_path: Path) -> None:
    configuration = load_configuration(written(tmp_path, CPE))
    assert configuration.line == LineSection("127.0.0.1:7501", "127.0.0.1:7502", "127.0.0.1:7503")
    assert configuration.peers == {"pmp/shandong": ("https://127.0.0.1:7402", "https://[::1]:7403")}
    assert configuration.courier == "pmp/shandong"
    assert configuration.listen.monitoring == configuration.telemetry.otlp == ""
    assert (configuration.store.url, configuration.limits.waiting) == ("sqlite", 1024)


def test_the_twin_has_a_certificate_for_each_link(tmp_path: Path) -> None:
    (link,) = load_twin(written(tmp_path, TWIN)).links
    assert (link.name, link.ends) == ("west", ("km/jinan", "km/weifang"))
    assert link.tls.operator_list == tmp_path / "operator.crl"


def test_a_border_names_operators_and_their_saes_and_streams_an_address(tmp_path: Path) -> None:
    configuration = load_configuration(written(tmp_path, KM.replace("[links]", SAES) + BORDER))
    assert configuration.border is not None
    assert configuration.border.saes == ("wanda", "walter", "nora")
    assert configuration.border.authority == tmp_path / "operators.pem"
    assert configuration.streams == StreamsSection("127.0.0.1:7702")


def test_sources_are_key_managers_of_others_and_files_each_for_links_of_its_own(tmp_path: Path) -> None:
    configuration = load_sources(written(tmp_path, SOURCES))
    (foreign,), (files,) = configuration.foreign, configuration.files
    assert (foreign.link, foreign.wanted_bits, foreign.keys, foreign.key_size) == ("west", 24_576, 128, 256)
    assert [(end.km, end.sae) for end in foreign.ends] == [("km/jinan", "qsotn-a"), ("km/weifang", "qsotn-b")]
    assert [end.folder for end in files.ends] == [tmp_path / "one", tmp_path / "other"]


WRONG_CPE = [
    ('state = "."', "state = 1", r"state: 1 is no path"),
    ('state = "."', 'state = ""', r"state: '' is no path: expected a text that is not empty"),
    ('party = "cpe/jinan-1"', 'party = "cpe"', r"party: 'cpe' is no party: expected role/name"),
    ('party = "cpe/jinan-1"', 'party = "cpe/a b"', r"party: 'cpe/a b' is no party: a name is 1 to 56 letters"),
    ('party = "cpe/jinan-1"', 'party = "qkd/west"', r"party: 'qkd/west' has role qkd; expected one of pomp, pmp"),
    ('courier = "pmp/shandong"', "", r"courier: a cpe needs one; name its PMP"),
    ('courier = "pmp/shandong"', 'courier = "km/a"', r"courier: 'km/a' has role km; expected one of pmp"),
    ('courier = "pmp/shandong"', 'courier = "pmp/a"', r"courier: \[peers\] does not say where pmp/a is"),
    ("127.0.0.1:7401", "7401", r"\[listen\] address: '7401' is no address: expected \"host:port\""),
    ("127.0.0.1:7503", "127.0.0.1:0", r"\[line\] client_port: '127.0.0.1:0' has no port"),
    ("https://127.0.0.1:7402", "http://127.0.0.1:7402", r"\[peers\] pmp/shandong: 'http://.*' is no URL of a service"),
    ("https://127.0.0.1:7402", "https://127.0.0.1", r"\[peers\] pmp/shandong: '127.0.0.1' is no address"),
    ("https://127.0.0.1:7402", "https://127.0.0.1:7402/a", r"is no URL of a service; expected \"https://host:port\""),
    ('["https://127.0.0.1:7402", "https://[::1]:7403"]', "[]", r"\[peers\] pmp/shandong: the list is empty"),
    ("[line]", "[limits]\nwaiting = 0\n[line]", r"\[limits\] waiting: 0 is too few"),
    ("[line]", '[log]\nlevel = "loud"\n[line]', r"\[log\], level: Invalid enum value 'loud'; expected one of 'debug'"),
    ("[line]", '[links]\nwest = "km/a"\n[line]', r"\[links\]: a cpe has no QKD links"),
    ("[line]", "[accounts]\nretention_days = 9\n[line]", r"\[accounts\]: a cpe keeps no accounts of keys"),
    ("operator_list", "operator_crl", r"\[tls\]: .*"),
]
WRONG_KM = [
    ('state = "state"', 'state = "state"\ncourier = "pmp/shandong"', r"courier: a km has none; leave it out"),
    ("[links]", "[accounts]\nretention_days = 2\n[links]", r"retention_days: 2 is out of range; there may be 3 to"),
    ("postgresql://qsotn:hidden@host/km", "mysql://qsotn:hidden@host", r"\[store\] url: this is no store; there are"),
    ("127.0.0.1:7402", "127.0.0.1:x", r"\[listen\] monitoring: '127.0.0.1:x' has no port"),
    ('west = "km/weifang"', 'west = "km/yantai"', r"\[links\] west: \[peers\] does not say where km/yantai is"),
    ('west = "km/weifang"', 'west = "qssp/jinan"', r"\[links\] west: 'qssp/jinan' has role qssp; expected one of km"),
    ("[links]", '[line]\nlocal = "h:1"\nremote = "h:2"\nclient_port = "h:3"\n[links]', r"\[line\]: a km has no line"),
    ('"km/weifang" =', '"operator/admin" =', r"\[peers\]: 'operator/admin' has role operator"),
]
SAES = """[delivery]
address = "127.0.0.1:7601"
[[sae]]
id = "bank"
km = "km/jinan"
[[sae]]
id = "branch"
km = "km/weifang"
[links]"""
WRONG_DELIVERY = [
    ("127.0.0.1:7601", "7601", r"\[delivery\] address: '7601' is no address"),
    (
        '[delivery]\naddress = "127.0.0.1:7601"\n',
        "",
        r"\[\[sae\]\]: there is no \[delivery\] for it; name an address",
    ),
    ('7601"', '7601"\ntls = "standard"', r"\[delivery\] certificate: with tls = \"standard\", name a PEM file"),
    ('7601"', '7601"\nkey = "k.pem"', r"\[delivery\] key: with tls = \"post-quantum\", leave it out; the files of"),
    ('7601"', '7601"\nkey_size = 250', r"\[delivery\] smallest_key, key_size, largest_key: 64, 250, 1024 do not go"),
    ('7601"', '7601"\nkey_size = 32', r"\[delivery\] smallest_key, key_size, largest_key: 64, 32, 1024 do not go"),
    ('7601"', '7601"\nmost_keys = 512', r"\[delivery\] most_keys, largest_key: 512 keys of 1024 bits are too many"),
    ('7601"', '7601"\nready_keys = 0', r"\[delivery\] ready_keys: 0 is out of range; there may be 1 to"),
    ('7601"', '7601"\nmost_additional_slaves = 64', r"\[delivery\] most_additional_slaves: 64 is out of range; .* 63"),
    ('"branch"', '"bank"', r"\[\[sae\]\] number 2, id: 'bank' stands there twice; an SAE is at one key manager"),
    ('"branch"', '""', r"\[\[sae\]\] number 2, id: '' is no ID; an ID is 1 to 255 printable characters"),
    (
        '"km/weifang"\n[links]',
        '"km/yantai"\n[links]',
        r"\[\[sae\]\] number 2, km: \[peers\] does not say where km/yantai",
    ),
    ('"km/weifang"\n[links]', '"qssp/a"\n[links]', r"\[\[sae\]\] number 2, km: 'qssp/a' has role qssp"),
]
CLASSES = SAES.replace(
    '[[sae]]\nid = "bank"',
    """ready_keys = 100
[[delivery.class]]
name = "gold"
guaranteed_percent = 60
[[delivery.class]]
name = "rest"
guaranteed_percent = 40
[[sae]]
class = "gold"
id = "bank\"""",
)
WRONG_CLASSES = [
    ('= "rest"', '= "gold"', r"\[\[delivery.class\]\] number 2, name: 'gold' stands there twice; give each class its"),
    (
        'name = "rest"',
        'name = ""',
        r"\[\[delivery.class\]\] number 2, name: '' is no name; a name is 1 to 40 printable",
    ),
    ("= 40", "= 41", r"\[\[delivery.class\]\] guaranteed_percent: they are 101 together; expected at most 100"),
    ("= 40", "= -1", r"\[\[delivery.class\]\] number 2, guaranteed_percent: -1 is no percent; expected 0 to 100"),
    ("= 60", "= 101", r"\[\[delivery.class\]\] number 1, guaranteed_percent: 101 is no percent; expected 0 to 100"),
    ("= 40", "= 1", r"number 2, guaranteed_percent: of half a pool of 100 units, 1 % is less than one; raise it or"),
    ("guaranteed_percent = 40\n", "", r"\[delivery\].*class.*missing required field `guaranteed_percent`"),
    (
        'class = "gold"',
        'class = "silver"',
        r"\[\[sae\]\] number 1, class: there is no class 'silver'; there are gold, rest",
    ),
]


BORDER = """
[border]
address = "127.0.0.1:7701"
own_url = "https://border.example:7701"
certificate = "border.pem"
key = "border.key"
authority = "operators.pem"
[[border.operator]]
name = "km.west.example"
url = "https://km.west.example:7701"
saes = ["wanda", "walter"]
[[border.operator]]
name = "km.north.example"
url = "https://km.north.example:7701"
saes = ["nora"]
[streams]
address = "127.0.0.1:7702"
"""
WRONG_BORDER = [
    ("127.0.0.1:7701", "7701", r"\[border\] address: '7701' is no address"),
    ("https://border.example:7701", "http://b:1", r"\[border\] own_url: 'http://b:1' is no URL of a service"),
    ("https://border.example:7701", "https://[b:1", r"\[border\] own_url: 'https://\[b:1' is no URL of a service"),
    (
        'name = "km.north.example"',
        'name = "km.west.example"',
        r"\[\[border.operator\]\] number 2, name: 'km.west.example' stands there twice",
    ),
    ('name = "km.west.example"', 'name = ""', r"\[\[border.operator\]\] number 1, name: '' is no ID"),
    ("https://km.west.example:7701", "https://h", r"\[\[border.operator\]\] number 1, url: 'h' is no address"),
    ('["nora"]', "[]", r"\[\[border.operator\]\] number 2, saes: the list is empty"),
    ('["nora"]', '["wanda"]', r"\[\[border.operator\]\] number 2, saes: 'wanda' stands there twice; an SAE belongs to"),
    ('["nora"]', '["branch"]', r"\[\[border.operator\]\] number 2, saes: 'branch' stands under \[\[sae\]\], too"),
    ('["nora"]', '[""]', r"\[\[border.operator\]\] number 2, saes: SAE '' cannot be named to other operators"),
    ('certificate = "border.pem"\n', "", r"\[border\]: .*certificate"),
    ("127.0.0.1:7702", "h", r"\[streams\] address: 'h' is no address"),
]
SOURCES = f"""
state = "."
[peers]
"km/jinan" = ["https://127.0.0.1:7403"]
"km/weifang" = ["https://127.0.0.1:7404"]
[[foreign]]
link = "west"
[foreign.tls]{TLS}
[[foreign.end]]
km = "km/jinan"
url = "https://kme-a.example:443"
sae = "qsotn-a"
certificate = "a.pem"
key = "a.key"
authority = "vendor.pem"
[[foreign.end]]
km = "km/weifang"
url = "https://kme-b.example:443"
sae = "qsotn-b"
certificate = "b.pem"
key = "b.key"
authority = "vendor.pem"
[[files]]
link = "east"
[files.tls]{TLS}
[[files.end]]
km = "km/weifang"
folder = "one"
[[files.end]]
km = "km/jinan"
folder = "other"
"""
WRONG_SOURCES = [
    (
        'link = "east"',
        'link = "west"',
        r"\[\[files\]\] number 1, link: 'west' stands there twice; a link has one source",
    ),
    ('link = "west"', 'link = "w/e"', r"\[\[foreign\]\] number 1, link: 'qkd/w/e' is no party"),
    ('km = "km/jinan"', 'km = "km/yantai"', r"\[\[foreign\]\] number 1, km: \[peers\] does not say where km/yantai is"),
    ('km = "km/jinan"', 'km = "qssp/a"', r"\[\[foreign\]\] number 1, km: 'qssp/a' has role qssp"),
    ('km = "km/jinan"', 'km = "km/weifang"', r"\[\[foreign\]\] number 1, km: both ends are at km/weifang"),
    ("https://kme-a.example:443", "kme-a.example", r"\[\[foreign\]\] number 1, url: 'kme-a.example' is no URL"),
    ('"qsotn-a"', '"qsotn-b"', r"\[\[foreign\]\] number 1, sae: both ends are 'qsotn-b'; master and slave are two"),
    ('link = "west"', 'link = "west"\nwanted_bits = 0', r"\[\[foreign\]\] number 1, wanted_bits: 0 is too few"),
    ('link = "west"', 'link = "west"\nkey_size = 255', r"\[\[foreign\]\] number 1, key_size: 255 is no size of a key"),
    (
        'link = "west"',
        'link = "west"\nkeys = 2',
        r"\[\[foreign\]\] number 1, keys, key_size: 2 keys of 256 bits make no",
    ),
    ('link = "west"', 'link = "west"\nkeys = 4000', r"\[\[foreign\]\] number 1, keys, key_size: 4000 keys of 256 bits"),
    ('"one"', '"other"', r"\[\[files\]\] number 1, folder: both ends are .*; each end has a folder of its own"),
    ("[peers]", '[listen]\nmonitoring = "h"\n[peers]', r"\[listen\] monitoring: 'h' is no address"),
    (SOURCES[SOURCES.index("[[foreign]]") :], "", r"there is neither \[\[foreign\]\] nor \[\[files\]\]"),
]
WRONG_TWIN = [
    ("fill_bits = 1024", "fill_bits = 0", r"\[keys\] fill_bits: 0 is too few"),
    ('"km/jinan", "km/weifang"', '"km/jinan", "km/yantai"', r"'west', ends: \[peers\] does not say where km/yantai is"),
    ('"km/jinan", "km/weifang"', '"km/jinan", "qssp/a"', r"'west', ends: 'qssp/a' has role qssp; expected one of km"),
    ('name = "west"', 'name = "w/e"', r"\[\[link\]\] name: 'qkd/w/e' is no party"),
    ("[keys]", '[listen]\naddress = "h:1"\n[keys]', r"\[listen\]: unknown key 'address'; known there are monitoring"),
    ("key = ", "keys = ", r"\[\[link\]\] number 1, tls: .*"),
]


@pytest.mark.parametrize(
    ("text", "old", "new", "told"),
    [
        *((CPE, *row) for row in WRONG_CPE),
        *((KM, *row) for row in WRONG_KM),
        *((TWIN, *row) for row in WRONG_TWIN),
        *((KM.replace("[links]", SAES), *row) for row in WRONG_DELIVERY),
        *((KM.replace("[links]", CLASSES), *row) for row in WRONG_CLASSES),
        (
            KM.replace("[links]", SAES),
            'id = "bank"',
            'id = "bank"\nclass = "gold"',
            r"\[\[sae\]\] number 1, class: there is no class 'gold'; there is no \[\[delivery.class\]\]",
        ),
        *((KM.replace("[links]", SAES) + BORDER, *row) for row in WRONG_BORDER),
        *((SOURCES, *row) for row in WRONG_SOURCES),
        (KM + BORDER, "[border]", "[border]", r"\[border\]: there is no \[delivery\] for it"),
        (
            CPE,
            "[line]",
            '[delivery]\naddress = "h:1"\n[line]',
            r"\[delivery\], \[\[sae\]\], \[border\], \[streams\]: a cpe gives no keys to SAEs",
        ),
    ],
)
def test_a_mistake_is_named_with_file_and_key(tmp_path: Path, text: str, old: str, new: str, told: str) -> None:
    assert old in text
    load: Any = {TWIN: load_twin, SOURCES: load_sources}.get(text, load_configuration)
    with pytest.raises(UsageError, match=rf"service\.toml: {'' if told.startswith('[') else '.*'}{told}") as caught:
        load(written(tmp_path, text.replace(old, new, 1)))
    assert "hidden" not in str(caught.value)


def test_classes_stand_in_the_order_of_their_priority(tmp_path: Path) -> None:
    configuration = load_configuration(written(tmp_path, KM.replace("[links]", CLASSES)))
    assert configuration.delivery is not None
    assert [(one.name, one.guaranteed_percent) for one in configuration.delivery.classes] == [
        ("gold", 60),
        ("rest", 40),
    ]
    assert [sae.service_class for sae in configuration.saes] == ["gold", ""]


@pytest.mark.parametrize(
    ("address", "parts"),
    [
        ("127.0.0.1:1", ("127.0.0.1", 1)),
        ("host.example:65535", ("host.example", 65535)),
        ("[::1]:7401", ("::1", 7401)),
    ],
)
def test_an_address_is_host_and_port(address: str, parts: tuple[str, int]) -> None:
    assert split_address(address) == parts


@pytest.mark.parametrize(
    "address", ["", ":", ":1", "[]:1", "::1:7401", "host", "host:", "host:65536", "host:-1", "h:¹"]
)
def test_what_is_no_address_is_refused(address: str) -> None:
    with pytest.raises(UsageError, match=r"is no address|has no port"):
        split_address(address)


def test_what_is_written_reads_back() -> None:
    document = {
        "text": 'a "quoted" \\ line\nand \x7f, Jinan 济南, \U0001f511',
        "number": 7,
        "part": 0.5,
        "yes": True,
        "list": ["a", "b"],
        "none": [],
        "table": {"km/jinan": ["https://h:1"], "inner": {"x": 1}},
        "link": [{"name": "a", "tls": {"key": "k"}}, {"name": "b", "tls": {"key": "l"}}],
    }
    text = write_toml(document, "A heading\nof two lines")
    assert tomllib.loads(text) == document
    assert text.startswith("# A heading\n# of two lines\n")


def test_what_toml_has_no_word_for_is_not_written() -> None:
    with pytest.raises(TypeError, match="hold no NoneType"):
        write_toml({"nothing": None}, "")
