"""The expressions that choose VMs out of an inventory."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deltaferry.model.inventory import ToolsState
from deltaferry.model.vm import Firmware, PowerState
from deltaferry.planning.selection import FIELDS, FLAGS, Candidate, SelectionError, parse_selection

from .discovered import GIB, discovered, disk, snapshot

WEB = Candidate(
    discovered(
        "Web-01",
        folder="/Production/Web",
        attributes=(("Cost centre", "42"), ("owner", "shop team")),
        disks=(disk(0), disk(1, 100 * GIB, "ds2")),
        cbt_enabled=True,
        snapshots=(snapshot("before upgrade"), snapshot("backup")),
    ),
    replicated=False,
)
DB = Candidate(
    discovered(
        "db[1]*",
        folder="/Production",
        power=PowerState.OFF,
        firmware=Firmware.BIOS,
        tools=ToolsState.MISSING,
        disks=(disk(0, 10 * GIB),),
        committed=3 * GIB,
    ),
    replicated=True,
)
TEST = Candidate(
    discovered("web-test", folder="/Production-old", consolidation_needed=True, hardware_version=9), replicated=False
)
ALL = {"web": WEB, "db": DB, "test": TEST}


def chosen(text: str) -> set[str]:
    selection = parse_selection(text)
    return {name for name, candidate in ALL.items() if selection.matches(candidate)}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("name=web-01", {"web"}),
        ("NAME = WEB-01", {"web"}),
        ("name!=web-01", {"db", "test"}),
        ("name~web-*", {"web", "test"}),
        ("name~web", set()),
        ("name~*eb-0?", {"web"}),
        ("name!~web-*", {"db"}),
        ('name="db[1]*"', {"db"}),
        ("name~db[1]*", {"db"}),
        ('name~"db[1]*"', {"db"}),
        ("folder=/Production", {"db"}),
        ("folder=/Production/*", {"web", "db"}),
        ('folder="/production/*"', {"web", "db"}),
        ("folder!=/Production/*", {"test"}),
        ("folder=/*", {"web", "db", "test"}),
        ("folder~/Production*", {"web", "db", "test"}),
        ("folder=/Production/* and name~web-* and not replicated", {"web"}),
        ("replicated", {"db"}),
        ("not replicated and not cbt", {"test"}),
        ("cbt or consolidation", {"web", "test"}),
        ("cbt or name~web-* and consolidation", {"web", "test"}),
        ("(cbt or name~web-*) and consolidation", {"test"}),
        ("not (cbt or consolidation)", {"db"}),
        ("not not cbt", {"web"}),
        ("NOT cbt AND Name~*T", {"test"}),
        ("datastore=ds2", {"web"}),
        ("datastore!=ds2", {"db", "test"}),
        ("snapshot~backup*", {"web"}),
        ("snapshot!~backup*", {"db", "test"}),
        ("snapshots>=2", {"web"}),
        ("disks=1", {"db", "test"}),
        ("size>=100GiB", {"web"}),
        ("size>=100g", {"web"}),
        ("size<0.03TiB", {"db"}),
        ("size=10737418240", {"db"}),
        ("used<=3GiB", {"db"}),
        ("memory=4GiB and cpus=2 and hardware<10", {"test"}),
        ("attribute.owner=\"Shop Team\"", {"web"}),
        ('attribute."Cost centre"=42', {"web"}),
        ("attribute.owner!=somebody", {"web", "db", "test"}),
        ("attribute.owner~?*", {"web"}),
        ("power=off", {"db"}),
        ("firmware=bios", {"db"}),
        ('tools="not installed"', {"db"}),
        ("guest~*ubuntu*", {"web", "db", "test"}),
        ("host=esxi-1 and cluster=cluster-1 and datacenter=lab", {"web", "db", "test"}),
        ("backing=flat and annotation=\"\"", {"web", "db", "test"}),
        ("name=and or name=web-01", {"web"}),
    ],
)  # fmt: skip
def test_an_expression_chooses_what_it_says(text: str, expected: set[str]) -> None:
    assert chosen(text) == expected


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "a field is missing"),
        ("   ", "a field is missing"),
        ("name", "behind 'name' an operator is missing"),
        ("name=", "a value behind = is missing"),
        ("name~", "a value behind ~ is missing"),
        ('name="web', "a closing quotation mark is missing"),
        ("colour=green", "there is no field 'colour': the fields are name,"),
        ("tag=web", "vSphere's tags cannot be read"),
        ("name=web-*", "write name~web-*"),
        ("name!=web-*", "write name!~web-*"),
        ("name<5", "name is a text, which < does not compare"),
        ("size~5", "size is a number, which ~ does not compare"),
        ("size>big", "write for example size>100GiB"),
        ("disks>2GiB", "write for example disks>2"),
        ("snapshots=1" + "0" * 30, "is not a value of snapshots"),
        ("name=a name=b", "'name=b' is not expected here"),
        ("(cbt", "a closing bracket is missing"),
        ("cbt)", "a closing bracket too many"),
        ("cbt and", "a field is missing"),
        ("and cbt", "a field is missing"),
        ("= 5", "a field is missing"),
        ("cbt & replicated", "'& replicated' is not expected here"),
        ("attribute", "the name of the custom attribute behind attribute. is missing"),
        ("attribute.owner", "an operator is missing"),
        ("(" * 60 + "cbt" + ")" * 60, "nests deeper than 50 levels"),
        ("not " * 60 + "cbt", "nests deeper than 50 levels"),
    ],
)
def test_a_mistake_is_told_with_its_place_and_what_to_write(text: str, says: str) -> None:
    with pytest.raises(SelectionError) as caught:
        parse_selection(text)
    assert says in str(caught.value)
    assert str(caught.value).startswith("The expression cannot be used (character ")


def test_what_is_chosen_keeps_its_order() -> None:
    selection = parse_selection("not replicated")
    assert [vm.vm.name for vm in selection.among([TEST, DB, WEB])] == ["web-test", "Web-01"]


@given(st.text(st.sampled_from('namefoldr=~!<>()"*\\ and or not 01/.?é\x00')))
def test_any_text_is_an_expression_or_a_sentence(text: str) -> None:
    try:
        selection = parse_selection(text)
    except SelectionError as error:
        assert str(error).endswith(".")
    else:
        assert selection.matches(WEB) in (True, False)


_WORDS = st.text(st.characters(codec="utf-8", exclude_categories=["Cs", "Cc"]), max_size=20)


@given(_WORDS, st.sampled_from(["name", "annotation", "host", "attribute.owner"]))
def test_any_text_in_quotes_is_compared_as_it_is(value: str, field: str) -> None:
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    selection = parse_selection(f'{field}="{escaped}"')
    vm = discovered(
        value if field == "name" else "web",
        attributes=(("owner", value),) if field == "attribute.owner" else (),
        host=value if field == "host" else "esxi-1",
        annotation=value if field == "annotation" else "",
    )
    assert selection.matches(Candidate(vm, replicated=False))


_ATOMS = st.sampled_from(["cbt", "replicated", "consolidation", "name~web-*", "disks>1", "folder=/Production/*"])
_EXPRESSIONS = st.recursive(
    _ATOMS,
    lambda inner: st.tuples(inner, st.sampled_from(["and", "or"]), inner).map(lambda t: f"({t[0]} {t[1]} {t[2]})"),
    max_leaves=8,
)


@given(_EXPRESSIONS)
def test_not_chooses_exactly_the_others(text: str) -> None:
    assert chosen(f"not {text}") == ALL.keys() - chosen(text)


def test_every_field_and_flag_can_be_asked_for() -> None:
    for field in FIELDS:
        name = field.replace("NAME", "owner")
        parse_selection(f"{name}=1")
    for flag in FLAGS:
        parse_selection(flag)
