"""Lists of VMs to enable: every wrong line has its sentence, and a list with one is no list."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deltaferry.planning.enable_list import ListedVm, ListError, found_in, read_list

from .discovered import discovered

PROPERTIES = ("vm_name", "size", "subnet", "tags")


def mistakes(text: str) -> tuple[str, ...]:
    with pytest.raises(ListError) as caught:
        read_list(text, PROPERTIES)
    return caught.value.sentences


@pytest.mark.parametrize(
    "text",
    [
        "vm,size,tags\nweb-01,Standard_D4s_v5,owner=web|env=prod\ndb-01,,\n",
        "vm;size;tags\nweb-01;Standard_D4s_v5;owner=web | env=prod\n\ndb-01\n",
        "\ufeffVM , Size,TAGS\r\n\"web-01\", Standard_D4s_v5 ,owner=web|env=prod\r\n , ,\r\ndb-01,,\r\n",
    ],
)  # fmt: skip
def test_a_list_is_read_with_its_properties(text: str) -> None:
    web, db = read_list(text, PROPERTIES)
    assert (web.line, web.vm) == (2, "web-01")
    assert web.properties == {"size": "Standard_D4s_v5", "tags": {"owner": "web", "env": "prod"}}
    assert (db.vm, db.properties) == ("db-01", {})


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "The list is empty"),
        ("\n\n", "The list is empty"),
        ("vm\n", "The list names no VM"),
        ("name,size\nweb-01,x\n", "Line 1: there is no column vm; the first line names"),
        ("vm,colour\nweb-01,green\n", "Line 1: there is no column 'colour'; the columns are vm, vm_name, size, subnet, tags."),
        ("vm,size,size\nweb-01,a,b\n", "Line 1: the column size stands there twice."),
        ("vm,size\n,Standard\n", "Line 2: the VM's name or instance UUID is missing."),
        ("vm,size\nweb-01,a,b\n", "Line 2: it has 3 cells, but the first line names 2 columns."),
        ("vm\nweb-01\n\nWEB-01\n", "Line 4: WEB-01 stands in line 2 already."),
        ("vm,tags\nweb-01,owner\n", "Line 2: the tag 'owner' is not of the form key=value."),
        ('vm,size\nok,a\nweb-01,"x\n', "Line 3: it is not CSV"),
    ],
)
def test_a_wrong_line_has_a_sentence(text: str, says: str) -> None:
    assert says in " ".join(mistakes(text))


def test_every_wrong_line_is_told_at_once() -> None:
    told = mistakes("vm,tags\n,a=b\nweb-01,ab\nweb-02,a=b,c\nweb-03,\n")
    assert [sentence.partition(":")[0] for sentence in told] == ["Line 2", "Line 3", "Line 4"]


def test_a_cell_with_line_breaks_does_not_shift_the_numbers_of_lines() -> None:
    listed = read_list('vm,tags\nweb-01,"a=1\n2"\ndb-01,\n', PROPERTIES)
    assert [(item.line, item.vm) for item in listed] == [(2, "web-01"), (4, "db-01")]


def test_lines_are_found_by_name_and_by_uuid_whatever_its_case() -> None:
    web, db = discovered("web-01"), discovered("db-01", uuid="50030000-0000-4000-8000-00000000000a")
    listed = (ListedVm(2, "web-01", {}), ListedVm(3, "50030000-0000-4000-8000-00000000000A", {}))
    assert [vm for _, vm in found_in(listed, [db, web])] == [web, db]


def test_a_line_without_its_one_vm_has_a_sentence() -> None:
    first, second = discovered("twin", folder="/a"), discovered("twin", folder="/b")
    only = discovered("only")
    listed = [
        ListedVm(2, "nobody", {}),
        ListedVm(3, "twin", {}),
        ListedVm(4, "only", {}),
        ListedVm(5, only.vm.instance_uuid.upper(), {}),
    ]
    with pytest.raises(ListError) as caught:
        found_in(listed, [first, second, only])
    missing, several, twice = caught.value.sentences
    assert missing == "Line 2: the inventory has no VM with the name or instance UUID 'nobody'."
    assert first.vm.instance_uuid in several
    assert second.vm.instance_uuid in several
    assert twice.startswith("Line 5: ") and twice.endswith("is the VM of line 4 already.")


@given(st.text(st.sampled_from('vm,;size\n\r"tags=| \x00é1')))
def test_any_text_is_a_list_or_sentences(text: str) -> None:
    try:
        listed = read_list(text, PROPERTIES)
    except ListError as error:
        assert error.sentences
        assert all(sentence.endswith(".") for sentence in error.sentences)
    else:
        assert listed
        assert all(item.vm for item in listed)
