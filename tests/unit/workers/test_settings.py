import json
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from pydantic import TypeAdapter

from deltaferry.model.errors import DeltaferryError, ErrorKind
from deltaferry.planning.windows import DEFAULT_OFF_HOURS
from workers.secrets import SecretRef
from workers.settings import (
    ClientSecretCredential,
    DefaultCredential,
    KeyVaultKeys,
    LocalFileKeys,
    Reader,
    Settings,
    TemporalSettings,
    TokenCredential,
    load_settings,
    parse_settings,
)
from workers.settings_file import decode
from workers.settings_types import HostPort, parse_duration, parse_host_port
from workers.wiring import site_profile

EXAMPLE = Path(__file__).parents[3] / "deploy" / "examples" / "deltaferry.toml"

LAB = """
[installation]
id = "lab"
[temporal]
address = "127.0.0.1:7233"
[sites.lab]
vcenter = "https://127.0.0.1:8443"
user = "env:VC_USER"
password = "env:VC_PASSWORD"
time_zone = "Europe/London"
min_interval = "3s"
max_interval = "PT12H"
appliance = "appliance-1"
target = "lab"
reader = "nbd"
[sites.lab.nbd]
plaintext = true
hosts = {"esxi-1.lab" = "127.0.0.1:10809", "esxi-2.lab" = "[::1]:10810"}
[sites.lab.limits]
disks_per_host = 4
[targets.lab]
subscription = "s"
resource_group = "rg"
location = "lab"
network = "n"
subnet = "default"
vm_size = "Standard_D2s_v5"
arm_endpoint = "https://127.0.0.1:9443"
credential = {kind = "token", token = "env:ARM_TOKEN"}
[targets.lab.log]
url = "http://127.0.0.1:10000/devstoreaccount1"
account = "devstoreaccount1"
key = "env:STORAGE_KEY"
resource_id = "/subscriptions/s/log"
allow_plain_http = true
[targets.lab.gateway]
url = "https://gateway.example.com/"
account = "gateway"
[targets.lab.seed]
url = "https://seed.example.com"
account = "seed"
resource_id = "/subscriptions/s/seed"
[targets.lab.keys]
kind = "local-file"
file = "env:KEY_FILE"
"""


def parse(text: str) -> Settings:
    return parse_settings(text.encode(), "deltaferry.toml")


def mistake(text: str) -> str:
    with pytest.raises(DeltaferryError) as caught:
        parse(text)
    assert caught.value.kind is ErrorKind.BAD_CONFIGURATION
    return caught.value.detail


def changed(old: str, new: str) -> str:
    assert LAB.count(old) == 1
    return LAB.replace(old, new)


def test_the_example_file_is_valid() -> None:
    settings = load_settings(EXAMPLE)
    assert settings.sites["london"].reader is Reader.NBDKIT_VDDK
    assert isinstance(settings.targets["westeurope"].credential, ClientSecretCredential)
    assert isinstance(settings.targets["westeurope"].keys, KeyVaultKeys)


def test_every_default_in_the_example_is_the_default() -> None:
    commented = [
        line[2:]
        for line in EXAMPLE.read_text().splitlines()
        if line.startswith(
            (
                "# min_interval",
                "# max_interval",
                "# off_hours",
                "# sample_share",
                "# throttle",
                "# pre_failover",
                "# scrub_every",
                "# inventory_every",
            )
        )
    ]
    commented += [line[2:] for line in EXAMPLE.read_text().splitlines() if line.startswith(("# disk_sku", "# arm_endpoint"))]
    assert len(commented) == 10
    text = EXAMPLE.read_text()
    for line in commented:
        text = text.replace(f"# {line}", line)
    for name in ("disks_per_appliance", "disks_per_host", "snapshots_per_datastore", "chunk_max ", "chunk_max_bytes", "threads_per_disk",
                 "page_blob_rate_mib_s", "level", "format", "nbdkit ="):  # fmt: skip
        assert text.count(f"# {name}") == 1
        text = text.replace(f"# {name}", name)
    assert parse(text) == load_settings(EXAMPLE)


def test_the_labs_file_becomes_typed_settings() -> None:
    settings = parse(LAB)
    site, target = settings.sites["lab"], settings.targets["lab"]
    assert site.min_interval == timedelta(seconds=3) and site.max_interval == timedelta(hours=12)
    assert site.nbd is not None and site.nbd.hosts["esxi-2.lab"] == HostPort("::1", 10810)
    assert site.limits.disks_per_host == 4 and site.limits.disks_per_appliance == 52
    assert isinstance(target.credential, TokenCredential) and target.credential.token == SecretRef("env:ARM_TOKEN")
    assert target.gateway.url == "https://gateway.example.com" and target.gateway.key is None
    assert isinstance(target.keys, LocalFileKeys) and target.keys.path({"KEY_FILE": "/k"}) == Path("/k")
    assert settings.temporal.connect_config() == {"target_host": "127.0.0.1:7233", "namespace": "default"}
    assert settings.metrics.prometheus is None and settings.transfer.chunk_max == timedelta(minutes=15)


def test_the_least_file_needs_only_an_installation() -> None:
    settings = parse('[installation]\nid = "a"')
    assert settings.sites == {} and settings.logs.level == "info"


def test_tables_of_entries_cannot_be_changed() -> None:
    with pytest.raises(TypeError):
        parse(LAB).sites["other"] = parse(LAB).sites["lab"]  # type: ignore[index]


def test_a_target_without_credential_uses_azures_own_chain() -> None:
    settings = parse(changed('credential = {kind = "token", token = "env:ARM_TOKEN"}', ""))
    assert settings.targets["lab"].credential == DefaultCredential()


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ('id = "lab"', 'id = "Lab!"', "[installation] id is not a name of 1 to 12"),
        ('id = "lab"', "", '[installation] id is missing. Write id = "prod".'),
        ('id = "lab"', "id = 3", "[installation] id is not a string."),
        ('reader = "nbd"', 'reader = "ndb"', '[sites.lab] reader is not one of the values it can have. Write reader = "nbdkit-vddk" or "nbd".'),
        ('reader = "nbd"', 'reader = "nbdkit-vddk"', "no table vddk"),
        ('vcenter = "https://127.0.0.1:8443"', 'vcentre = "https://x"', "[sites.lab] vcentre is not a setting. Did you mean vcenter?"),
        ('vcenter = "https://127.0.0.1:8443"', 'vcenter = "http://127.0.0.1"', "[sites.lab] vcenter is not an https:// URL."),
        ('vcenter = "https://127.0.0.1:8443"', 'vcenter = "https://u:hunter2@x"', "[sites.lab] vcenter must be a plain URL"),
        ('password = "env:VC_PASSWORD"', 'password = "hunter2"', '[sites.lab] password must be a reference to a secret, not the secret itself. Write password = "env:NAME"'),
        ('key = "env:STORAGE_KEY"', 'key = "hunter2"', "[targets.lab.log] key must be a reference"),
        ('token = "env:ARM_TOKEN"', 'token = "env:hunter2 !"', "[targets.lab.credential] token must be a reference"),
        ('credential = {kind = "token", token = "env:ARM_TOKEN"}', 'credential = {kind = "password", p = "hunter2"}', "[targets.lab] credential is not of a kind that exists. Write credential ="),
        ('credential = {kind = "token", token = "env:ARM_TOKEN"}', 'credential = {kind = "token"}', "[targets.lab.credential] token is missing."),
        ('min_interval = "3s"', 'min_interval = "3 seconds"', '[sites.lab] min_interval is not a duration above zero. Write min_interval = "PT1H" or "1h".'),
        ('min_interval = "3s"', 'min_interval = "0s"', "is not a duration above zero"),
        ('min_interval = "3s"', "min_interval = 3", "is not a duration above zero"),
        ('min_interval = "3s"', 'min_interval = "13h"', "min_interval above its max_interval"),
        ('min_interval = "3s"', 'inventory_every = "9s"', "[sites.lab] inventory_every is less than 10 seconds. Write inventory_every"),
        ('min_interval = "3s"', 'inventory_every = "often"', "is neither a duration above zero nor `never`"),
        ('time_zone = "Europe/London"', 'time_zone = "Europe/Londinium"', '[sites.lab] time_zone is not an IANA time zone. Write time_zone = "Europe/London".'),
        ('time_zone = "Europe/London"', 'time_zone = "../hunter2"', "is not an IANA time zone"),
        ('target = "lab"', 'target = "lab"\noff_hours = "Monday;7:00;7h | hunter2;7:00;7h"', "[sites.lab] off_hours cannot be read: Window 2 has a day that is not a day of the week. Write Monday,"),
        ('target = "lab"', 'target = "lab"\nthrottle = "100 hunter2/s"', "[sites.lab] throttle cannot be read: The rate without a window cannot be read. Write"),
        ('target = "lab"', 'target = "lab"\npre_failover_weight = 0', "[sites.lab] pre_failover_weight is too small. Write pre_failover_weight = 4"),
        ('target = "lab"', 'target = "lab"\noff_hours = 22', '[sites.lab] off_hours is not a string. Write off_hours = "Monday;22:00;8h'),
        ('target = "lab"', 'target = "lab"\nsample_share = 1.5', "[sites.lab] sample_share is too large. Write sample_share = 0.001 (from 0 to 1)."),
        ('target = "lab"', 'target = "lab"\nsample_share = -0.1', "[sites.lab] sample_share is too small."),
        ('target = "lab"', 'target = "lab"\nsample_share = nan', "[sites.lab] sample_share is not a finite number."),
        ('target = "lab"', 'target = "lab"\nsample_share = "1%"', "[sites.lab] sample_share is not a number."),
        ('target = "lab"', 'target = "lab"\nsample_share = true', "[sites.lab] sample_share is not a number."),
        ("plaintext = true", "plaintext = false", "[sites.lab.nbd] plaintext is not one of the values"),
        ("plaintext = true", "", "[sites.lab.nbd] plaintext is missing"),
        ('"127.0.0.1:10809"', '"127.0.0.1"', '[sites.lab.nbd.hosts] "esxi-1.lab" is not a host and a port. Write hosts ='),
        ("disks_per_host = 4", "disks_per_host = 0", "[sites.lab.limits] disks_per_host is too small. Write disks_per_host = 8."),
        ("disks_per_host = 4", 'disks_per_host = "4"', "is not a whole number"),
        ("allow_plain_http = true", "", "[targets.lab] log has an http:// url"),
        ("allow_plain_http = true", "allow_plain_http = 1", "is not true or false"),
        ('resource_id = "/subscriptions/s/seed"', "", "no resource_id in its table seed"),
        ('arm_endpoint = "https://127.0.0.1:9443"', 'arm_endpoint = "http://x"', "is not an https:// URL"),
        ('target = "lab"', 'target = "mars"', "no table [targets.mars]"),
        ('file = "env:KEY_FILE"', 'file = "key"', "[targets.lab.keys] file is neither an absolute path"),
        ('address = "127.0.0.1:7233"', 'address = "127.0.0.1:7233"\nprofile = "p"', "[temporal] has both address and profile"),
        ('address = "127.0.0.1:7233"', "address = 1979-05-27", "[temporal] address is a date"),
        ("[sites.lab.limits]", '[sites."B C"]', '[sites] "B C" cannot have this name'),
        ("[temporal]", "[temporal.temporal]", "[temporal] temporal is not a setting. Remove it."),
    ],
)  # fmt: skip
def test_a_mistake_is_a_sentence_that_names_file_table_and_key(old: str, new: str, expected: str) -> None:
    detail = mistake(changed(old, new))
    assert expected in detail
    assert detail.startswith("deltaferry.toml: ")
    assert detail.endswith((".", "?"))
    assert "hunter2" not in detail


def test_windows_and_sample_of_a_site_reach_its_profile() -> None:
    given_ones = 'target = "lab"\noff_hours = "sunday; 0:00; 1d"\nsample_share = 1'
    by_default, as_given = (site_profile(parse(text), "lab") for text in (LAB, changed('target = "lab"', given_ones)))
    assert (by_default.off_hours, by_default.sample_share) == (DEFAULT_OFF_HOURS, 0.001)
    assert (as_given.time_zone, as_given.off_hours, as_given.sample_share) == ("Europe/London", "sunday; 0:00; 1d", 1.0)


def test_a_sites_throttle_reaches_its_profile_and_is_none_where_left_out() -> None:
    schedule = "100 Mbit/s | Monday;7:00;10h;10 Mbit/s"
    throttled = parse(changed('target = "lab"', f'target = "lab"\nthrottle = "{schedule}"\npre_failover_weight = 8'))
    profiles = [site_profile(settings, "lab") for settings in (throttled, parse(LAB))]
    assert [(profile.throttle, profile.pre_failover_weight) for profile in profiles] == [(schedule, 8), ("", 4)]


def test_without_off_hours_automatic_resyncs_never_start() -> None:
    assert parse(changed('target = "lab"', 'target = "lab"\noff_hours = ""')).sites["lab"].off_hours == ""


def test_every_mistake_is_reported_at_once() -> None:
    detail = mistake(changed('id = "lab"', "").replace('reader = "nbd"', "").replace('account = "seed"', ""))
    assert all(part in detail for part in ("[installation] id", "[sites.lab] reader", "[targets.lab.seed] account"))


def test_a_chunk_of_more_than_fifteen_minutes_is_refused() -> None:
    assert "[transfer] chunk_max is more than 15 minutes" in mistake(LAB + '[transfer]\nchunk_max = "16m"')


def test_two_sites_with_one_appliance_are_refused() -> None:
    site = LAB[LAB.index("[sites.lab]") : LAB.index("[targets.lab]")].replace("sites.lab", "sites.two")
    assert "gives the sites lab and two the appliance appliance-1 twice" in mistake(LAB + site)


def test_a_scale_out_appliance_has_a_name_and_windows_of_its_own() -> None:
    scale_out = '[sites.lab.scale_out.edge-2]\nblackout = "Monday;7:00;7h"\n'
    site = parse(LAB + scale_out).sites["lab"]
    assert {name: own.blackout for name, own in site.scale_out.items()} == {"edge-2": "Monday;7:00;7h"}
    assert "gives the site lab the appliance appliance-1 twice" in mistake(LAB + "[sites.lab.scale_out.appliance-1]\n")
    assert "has a day that is not a day of the week" in mistake(LAB + scale_out.replace("Monday", "Mondy"))


def test_what_is_not_toml_is_refused_with_its_place() -> None:
    assert "line 2" in mistake("[installation]\nid = x\n")


@pytest.mark.parametrize(
    "data", [b"\xff", b"a = " + b"9" * 5000, b"a = " + b"[" * 5000, b"a = " + b"{a=" * 40 + b"1" + b"}" * 40, b"#" * 2_000_000]
)
def test_hostile_bytes_are_bad_configuration(data: bytes) -> None:
    with pytest.raises(DeltaferryError) as caught:
        parse_settings(data, "f")
    assert caught.value.kind is ErrorKind.BAD_CONFIGURATION


FRAGMENTS = st.lists(
    st.sampled_from(
        [*LAB.splitlines(), "[", "]", "x = nan", "d = 1979-05-27", "l = [[1], {a = 1}]", "id = 1e400", '"" = 1', "sites = 3"]
    )
)


@hypothesis_settings(max_examples=150, deadline=None)
@given(
    st.one_of(
        st.binary(max_size=200),
        st.text(max_size=200).map(lambda text: text.encode("utf-8", "replace")),
        FRAGMENTS.map(lambda lines: "\n".join(lines).encode()),
    )
)
def test_any_bytes_become_settings_or_bad_configuration(data: bytes) -> None:
    try:
        assert isinstance(parse_settings(data, "f"), Settings)
    except DeltaferryError as error:
        assert error.kind is ErrorKind.BAD_CONFIGURATION


TOML_VALUES = st.recursive(
    st.one_of(
        st.booleans(),
        st.integers(-(2**70), 2**70),
        st.floats(),
        st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=8),
    ),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=5), inner, max_size=3)),
    max_leaves=4,
)
PLACES = st.sampled_from([line.partition(" = ")[0] + " = " for line in LAB.splitlines() if " = " in line])


def toml(value: object) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(key)} = {toml(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(toml(inner) for inner in value) + "]"
    return json.dumps(value).replace("NaN", "nan").replace("Infinity", "inf")


@hypothesis_settings(max_examples=200, deadline=None)
@given(PLACES, TOML_VALUES)
def test_any_value_at_any_key_becomes_settings_or_bad_configuration(place: str, value: object) -> None:
    text = "\n".join(place + toml(value) if line.startswith(place) else line for line in LAB.splitlines())
    try:
        assert isinstance(parse(text), Settings)
    except DeltaferryError as error:
        assert error.kind is ErrorKind.BAD_CONFIGURATION


def test_the_file_is_found_in_the_default_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home, here = tmp_path / "home", tmp_path / "here"
    (home / ".config" / "deltaferry").mkdir(parents=True)
    here.mkdir()
    monkeypatch.chdir(here)
    monkeypatch.setenv("HOME", str(home))
    with pytest.raises(DeltaferryError, match="There is no settings file"):
        load_settings(environ={})
    places = [
        home / ".config" / "deltaferry" / "deltaferry.toml",
        here / "deltaferry.toml",
        tmp_path / "variable.toml",
        tmp_path / "option.toml",
    ]
    for number, place in enumerate(places):
        place.write_text(f'[installation]\nid = "i{number}"')
        option = places[3] if number == 3 else None
        environ = {"DELTAFERRY_CONFIG": str(places[2])} if number >= 2 else {}
        assert load_settings(option, environ).installation.id == f"i{number}"


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(DeltaferryError, match=r"missing\.toml cannot be read: No such file"):
        load_settings(tmp_path / "missing.toml")
    with pytest.raises(DeltaferryError, match="cannot be read: Is a directory"):
        load_settings(tmp_path)


def test_without_address_the_temporal_clis_own_profile_counts(tmp_path: Path) -> None:
    config = tmp_path / "temporal.toml"
    config.write_text('[profile.prod]\naddress = "temporal.example.com:7233"\nnamespace = "replication"\n')
    environ = {"TEMPORAL_CONFIG_FILE": str(config)}
    assert TemporalSettings(profile="prod").connect_config(environ) == {
        "target_host": "temporal.example.com:7233",
        "namespace": "replication",
    }
    assert TemporalSettings(profile="prod", namespace="mine").connect_config(environ)["namespace"] == "mine"
    with pytest.raises(DeltaferryError, match="lacks the profile asked for"):
        TemporalSettings(profile="other").connect_config(environ)


def test_without_any_temporal_configuration_the_local_server_counts(tmp_path: Path) -> None:
    config = TemporalSettings().connect_config({"TEMPORAL_CONFIG_FILE": str(tmp_path / "none.toml")})
    assert config == {"target_host": "localhost:7233", "namespace": "default"}


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("PT1H", 3600), ("1h", 3600), ("PT1H30M", 5400), ("1h30m", 5400), ("P1DT2H", 93600), ("2.5s", 2.5), ("PT0.5S", 0.5), ("P2D", 172800),
     ("", None), ("P", None), ("PT", None), ("1", None), ("h", None), ("-1h", None), ("PT1H ", None), ("1h1h", None), ("\u0661h", None), ("9" * 30 + "d", None)],
)  # fmt: skip
def test_durations_are_iso_8601_or_short(text: str, seconds: float | None) -> None:
    assert parse_duration(text) == (None if seconds is None else timedelta(seconds=seconds))


@pytest.mark.parametrize("text", ["", ":", "x", "x:", ":1", "x:0", "x:65536", "x:-1", "x y:1", "::1:2", "x:\u0661"])
def test_what_is_not_host_and_port_is_refused(text: str) -> None:
    assert parse_host_port(text) is None


def test_decode_serves_any_settings_type() -> None:
    assert decode(b"", "f", TypeAdapter(TemporalSettings)) == TemporalSettings()
