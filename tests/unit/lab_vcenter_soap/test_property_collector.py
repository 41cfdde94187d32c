import threading
import time
from typing import Any

import pytest
from pyVmomi import vim, vmodl

from tests.unit.lab_vcenter_soap.running import Lab, Q, object_spec

FOLDERS = ["vm", "host", "datastore", "network", "twins"]


def _values(objects: list[Any]) -> list[dict[str, Any]]:
    return [{item.name: item.val for item in content.propSet} for content in objects]


def test_a_traversal_lists_all_vms_in_one_call(lab: Lab) -> None:
    spec = lab.container_spec(vim.VirtualMachine, ["name", "runtime.powerState", "config.hardware.device"])
    values = _values(lab.content.propertyCollector.RetrieveContents([spec]))
    assert [item["name"] for item in values].count("web-01") == 2
    by_name = {item["name"]: item for item in values}
    assert by_name["off-01"]["runtime.powerState"] == "poweredOff"
    disks = [d for d in by_name["off-01"]["config.hardware.device"] if isinstance(d, vim.vm.device.VirtualDisk)]
    assert [(d.key, d.capacityInBytes, d.backing.fileName) for d in disks] == [(2000, 1 << 20, "[ds2] off-01/off-01.vmdk")]


def test_pages_hold_at_most_max_objects_and_end_without_a_token(lab: Lab) -> None:
    spec = lab.container_spec(vim.Folder, ["name"])
    collector = lab.content.propertyCollector
    page = collector.RetrievePropertiesEx([spec], Q.RetrieveOptions(maxObjects=4))
    assert [value["name"] for value in _values(page.objects)] == FOLDERS[:4]
    last = collector.ContinueRetrievePropertiesEx(page.token)
    assert (len(last.objects), last.token) == (1, None)
    with pytest.raises(vmodl.fault.InvalidArgument):
        collector.ContinueRetrievePropertiesEx(page.token)


def test_a_cancelled_retrieval_cannot_go_on(lab: Lab) -> None:
    spec = lab.container_spec(vim.VirtualMachine, ["name"])
    collector = lab.content.propertyCollector
    page = collector.RetrievePropertiesEx([spec], Q.RetrieveOptions(maxObjects=1))
    collector.CancelRetrievePropertiesEx(page.token)
    with pytest.raises(vmodl.fault.InvalidArgument):
        collector.ContinueRetrievePropertiesEx(page.token)


@pytest.mark.parametrize("path", ["nothing", "config.nothing", "snapshot.nothing", "name.first", "config.hardware.device.key"])
def test_a_path_that_does_not_exist_is_an_invalid_property(lab: Lab, path: str) -> None:
    with pytest.raises(vmodl.query.InvalidProperty) as caught:
        lab.content.propertyCollector.RetrieveContents([object_spec(lab.vm(), [path])])
    assert caught.value.name == path


def test_an_unset_property_is_left_out(lab: Lab) -> None:
    [content] = lab.content.propertyCollector.RetrieveContents(
        [object_spec(lab.vm(), ["name", "snapshot", "snapshot.currentSnapshot"])]
    )
    assert [item.name for item in content.propSet] == ["name"]
    assert list(content.missingSet) == []


def test_an_unreadable_property_is_in_the_missing_set(lab: Lab) -> None:
    lab.control.deny(properties=("config",))
    [content] = lab.content.propertyCollector.RetrieveContents([object_spec(lab.vm(), ["name", "config"])])
    assert [item.name for item in content.propSet] == ["name"]
    assert [(item.path, type(item.fault)) for item in content.missingSet] == [("config", vim.fault.NoPermission)]


def test_an_element_of_an_array_is_found_by_its_key(lab: Lab) -> None:
    [content] = lab.content.propertyCollector.RetrieveContents([object_spec(lab.vm(), ["config.hardware.device[2001]"])])
    assert content.propSet[0].val.deviceInfo.label == "Hard disk 2"


def test_all_reads_every_property(lab: Lab) -> None:
    spec = Q.FilterSpec(objectSet=[Q.ObjectSpec(obj=lab.vm())], propSet=[Q.PropertySpec(type=vim.ManagedEntity, all=True)])
    [content] = lab.content.propertyCollector.RetrieveContents([spec])
    assert {"config", "runtime", "summary", "guest", "capability", "datastore"} <= {item.name for item in content.propSet}


def test_a_selection_spec_follows_a_traversal_by_its_name(lab: Lab) -> None:
    """The way govc and older tools walk the tree."""
    again = Q.SelectionSpec(name="folders")
    folders = Q.TraversalSpec(name="folders", type=vim.Folder, path="childEntity", skip=False)
    centre = Q.TraversalSpec(name="centre", type=vim.Datacenter, path="vmFolder", skip=False, selectSet=[again])
    folders.selectSet = [again, centre]
    start = Q.ObjectSpec(obj=lab.content.rootFolder, skip=False, selectSet=[folders])
    spec = Q.FilterSpec(objectSet=[start], propSet=[Q.PropertySpec(type=vim.ManagedEntity, pathSet=["name"])])
    names = [value["name"] for value in _values(lab.content.propertyCollector.RetrieveContents([spec]))]
    assert {"Datacenters", "Lab", "vm", "twins", "off-01", "bare-01"} <= set(names)
    assert names.count("web-01") == 2
    assert not {"esxi-1.lab", "ds1"} & set(names)


def test_an_object_that_is_gone_is_named(lab: Lab) -> None:
    gone = vim.VirtualMachine("vm-1", lab.si._stub)
    with pytest.raises(vmodl.fault.ManagedObjectNotFound) as caught:
        lab.content.propertyCollector.RetrieveContents([object_spec(gone, ["name"])])
    assert caught.value.obj._moId == "vm-1"


# --- updates ---


def test_updates_enter_then_modify_only_what_changed(lab: Lab) -> None:
    collector = lab.content.propertyCollector.CreatePropertyCollector()
    vm = lab.vm()
    collector.CreateFilter(object_spec(vm, ["name", "config.annotation"]), True)
    first = collector.WaitForUpdatesEx("", Q.WaitOptions(maxWaitSeconds=5))
    [entered] = first.filterSet[0].objectSet
    assert (entered.kind, sorted(change.name for change in entered.changeSet)) == ("enter", ["config.annotation", "name"])
    lab.run(vm.ReconfigVM_Task(vim.vm.ConfigSpec(annotation="changed")))
    second = collector.WaitForUpdatesEx(first.version, Q.WaitOptions(maxWaitSeconds=5))
    [modified] = second.filterSet[0].objectSet
    assert (modified.kind, [(c.name, c.op, c.val) for c in modified.changeSet]) == (
        "modify",
        [("config.annotation", "assign", "changed")],
    )
    collector.DestroyPropertyCollector()


def test_nothing_new_is_none_after_the_wait(lab: Lab) -> None:
    collector = lab.content.propertyCollector.CreatePropertyCollector()
    collector.CreateFilter(object_spec(lab.vm(), ["name"]), True)
    first = collector.WaitForUpdatesEx("", Q.WaitOptions(maxWaitSeconds=5))
    assert collector.WaitForUpdatesEx(first.version, Q.WaitOptions(maxWaitSeconds=0)) is None
    started = time.monotonic()
    assert collector.WaitForUpdatesEx(first.version, Q.WaitOptions(maxWaitSeconds=1)) is None
    assert time.monotonic() - started >= 1


def test_a_waiter_is_woken_by_the_change(lab: Lab) -> None:
    collector = lab.content.propertyCollector.CreatePropertyCollector()
    vm = lab.vm("off-01")
    collector.CreateFilter(object_spec(vm, ["runtime.powerState"]), True)
    first = collector.WaitForUpdatesEx("", None)
    answers: list[Any] = []
    waiter = threading.Thread(target=lambda: answers.append(collector.WaitForUpdatesEx(first.version, None)))
    waiter.start()
    lab.control.power_on(vm._moId)
    waiter.join(20)
    assert answers[0].filterSet[0].objectSet[0].changeSet[0].val == "poweredOn"
    lab.control.power_off(vm._moId)


def test_a_version_that_was_not_given_is_refused_and_the_last_but_one_is_answered_again(lab: Lab) -> None:
    collector = lab.content.propertyCollector.CreatePropertyCollector()
    vm = lab.vm()
    collector.CreateFilter(object_spec(vm, ["config.annotation"]), True)
    first = collector.WaitForUpdatesEx("", None)
    lab.run(vm.ReconfigVM_Task(vim.vm.ConfigSpec(annotation=f"note {first.version}")))
    second = collector.WaitForUpdatesEx(first.version, None)
    lost = collector.WaitForUpdatesEx(first.version, None)
    assert (lost.version, lost.filterSet[0].objectSet[0].changeSet[0].val) == (second.version, f"note {first.version}")
    for version in ("99", "abc"):
        with pytest.raises(vmodl.query.InvalidCollectorVersion):
            collector.WaitForUpdatesEx(version, Q.WaitOptions(maxWaitSeconds=0))


def test_a_cancelled_wait_and_an_expired_session_end_with_request_canceled(lab: Lab) -> None:
    other = lab.connect()
    collector = other.content.propertyCollector
    collector.CreateFilter(object_spec(vim.VirtualMachine(lab.vm()._moId, other._stub), ["name"]), True)
    first = collector.WaitForUpdatesEx("", None)
    faults: list[BaseException] = []

    def wait() -> None:
        try:
            collector.WaitForUpdatesEx(first.version, None)
        except vmodl.MethodFault as fault:
            faults.append(fault)

    waiter = threading.Thread(target=wait)
    waiter.start()
    while waiter.is_alive():  # who does not wait yet cannot be cancelled
        collector.CancelWaitForUpdates()
        waiter.join(0.05)
    before = lab.control.calls()["WaitForUpdatesEx"]
    waiter = threading.Thread(target=wait)
    waiter.start()
    while lab.control.calls()["WaitForUpdatesEx"] == before:
        continue
    lab.control.expire_sessions()
    waiter.join(20)
    assert [type(fault) for fault in faults] == [vmodl.fault.RequestCanceled] * 2
    lab.renew()


def test_an_object_that_goes_away_leaves(lab: Lab) -> None:
    vm = lab.vm()
    snapshot = lab.snapshot(vm, "short-lived")
    collector = lab.content.propertyCollector.CreatePropertyCollector()
    collector.CreateFilter(object_spec(snapshot, ["vm"]), True)
    first = collector.WaitForUpdatesEx("", None)
    lab.run(snapshot.RemoveSnapshot_Task(removeChildren=False))
    update = collector.WaitForUpdatesEx(first.version, Q.WaitOptions(maxWaitSeconds=5))
    assert [(item.kind, item.obj._moId) for item in update.filterSet[0].objectSet] == [("leave", snapshot._moId)]


def test_a_truncated_update_is_followed_by_the_rest(lab: Lab) -> None:
    collector = lab.content.propertyCollector.CreatePropertyCollector()
    collector.CreateFilter(lab.container_spec(vim.Folder, ["name"]), True)
    version, seen = "", []
    while True:
        update = collector.WaitForUpdatesEx(version, Q.WaitOptions(maxWaitSeconds=0, maxObjectUpdates=4))
        if update is None:
            break
        seen.append((len(update.filterSet[0].objectSet), bool(update.truncated)))
        version = update.version
    assert seen == [(4, True), (1, False)]


def test_a_filter_names_its_mistakes_when_it_is_made(lab: Lab) -> None:
    collector = lab.content.propertyCollector
    with pytest.raises(vmodl.query.InvalidProperty):
        collector.CreateFilter(object_spec(lab.vm(), ["nothing"]), True)
    with pytest.raises(vmodl.fault.ManagedObjectNotFound):
        collector.CreateFilter(object_spec(vim.VirtualMachine("vm-1", lab.si._stub), ["name"]), True)


def test_a_destroyed_filter_says_no_more(lab: Lab) -> None:
    collector = lab.content.propertyCollector.CreatePropertyCollector()
    made = collector.CreateFilter(object_spec(lab.vm(), ["name"]), True)
    made.Destroy()
    assert collector.WaitForUpdatesEx("", Q.WaitOptions(maxWaitSeconds=0)) is None
    with pytest.raises(vmodl.fault.ManagedObjectNotFound):
        made.Destroy()


def test_the_search_index_tells_two_vms_of_one_name_apart(lab: Lab) -> None:
    index = lab.content.searchIndex
    first = index.FindByInventoryPath("Lab/vm/web-01")
    twin = index.FindByInventoryPath("/Lab/vm/twins/web-01")
    assert first.config.instanceUuid != twin.config.instanceUuid
    assert index.FindByUuid(None, twin.config.instanceUuid, True, True) == twin
    assert index.FindByUuid(None, twin.config.instanceUuid, True, False) is None
    assert index.FindByUuid(None, "00000000-0000-0000-0000-000000000000", True, True) is None


def test_denied_privileges_are_told_and_enforced(lab: Lab) -> None:
    wanted = ["VirtualMachine.State.CreateSnapshot", "VirtualMachine.State.RemoveSnapshot"]
    lab.control.deny(privileges=(wanted[0],))
    session = lab.content.sessionManager.sessionList[0].key
    [answer] = lab.content.authorizationManager.HasPrivilegeOnEntities([lab.content.rootFolder], session, wanted)
    assert [(item.privId, item.isGranted) for item in answer.privAvailability] == [(wanted[0], False), (wanted[1], True)]
    with pytest.raises(vim.fault.NoPermission) as caught:
        lab.vm().CreateSnapshot_Task(name="x", memory=False, quiesce=False)
    assert caught.value.privilegeId == wanted[0]
