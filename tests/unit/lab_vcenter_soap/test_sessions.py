import http.client
import json
import socket
import ssl
import subprocess
import sys
from pathlib import Path

import pytest
from pyVim.connect import Disconnect, SmartConnect
from pyVmomi import vim, vmodl
from tenacity import Retrying, stop_after_delay, wait_fixed

from deltaferry.blocks.nbd import NbdClient
from deltaferry.model.errors import DeltaferryError
from tests.unit.lab_vcenter_soap.running import PASSWORD, USER, Lab


def test_a_password_of_special_characters_logs_in(lab: Lab) -> None:
    assert lab.si.content.sessionManager.sessionList[-1].userName == USER
    assert lab.si.content.about.apiType == "VirtualCenter"


def test_a_wrong_password_is_an_invalid_login(lab: Lab) -> None:
    with pytest.raises(vim.fault.InvalidLogin):
        lab.connect(password=PASSWORD + "x")


def test_a_client_that_does_not_trust_the_ca_is_not_served(lab: Lab) -> None:
    with pytest.raises(ssl.SSLCertVerificationError):
        SmartConnect(host="127.0.0.1", port=lab.port, user=USER, pwd=PASSWORD, sslContext=ssl.create_default_context())


def test_nothing_but_the_service_instance_is_read_without_a_session(lab: Lab) -> None:
    lab.control.expire_sessions()
    assert lab.si.RetrieveContent().about.version == "8.0.1"
    with pytest.raises(vim.fault.NotAuthenticated):
        _ = lab.vm().name
    with pytest.raises(vim.fault.NotAuthenticated):
        lab.si.CurrentTime()
    lab.renew()


def test_an_idle_session_is_gone_and_its_views_with_it(lab: Lab) -> None:
    view = lab.content.viewManager.CreateContainerView(lab.content.rootFolder, [vim.VirtualMachine], True)
    assert lab.vm() in view.view
    lab.control.set_times(session_idle_s=0.0)
    with pytest.raises(vim.fault.NotAuthenticated):
        _ = view.view
    lab.control.set_times(session_idle_s=1800.0)
    lab.renew()
    with pytest.raises(vmodl.fault.ManagedObjectNotFound):
        _ = vim.view.ContainerView(view._moId, lab.si._stub).view


def test_a_view_belongs_to_its_session(lab: Lab) -> None:
    view = lab.content.viewManager.CreateContainerView(lab.content.rootFolder, [vim.VirtualMachine], True)
    other = lab.connect()
    with pytest.raises(vmodl.fault.ManagedObjectNotFound):
        _ = vim.view.ContainerView(view._moId, other._stub).view
    Disconnect(other)
    view.Destroy()
    with pytest.raises(vmodl.fault.ManagedObjectNotFound):
        _ = view.view


def test_logout_ends_the_session(lab: Lab) -> None:
    before = lab.control.state().sessions
    other = lab.connect()
    assert lab.control.state().sessions == before + 1
    Disconnect(other)
    assert lab.control.state().sessions == before


def test_an_unreachable_vcenter_drops_connections_and_comes_back(lab: Lab) -> None:
    lab.control.be_unreachable(0.3)
    with pytest.raises((OSError, http.client.HTTPException)):
        lab.si.CurrentTime()
    for attempt in Retrying(stop=stop_after_delay(20), wait=wait_fixed(0.05)):
        with attempt:
            lab.si.CurrentTime()


def test_broken_requests_get_a_fault(lab: Lab) -> None:
    for body in (b"<a/>", b"not xml", b""):
        connection = http.client.HTTPSConnection("127.0.0.1", lab.port, context=lab.tls())
        connection.request("POST", "/sdk", body)
        response = connection.getresponse()
        assert response.status in (404, 500)
        assert (b"InvalidRequestFault" in response.read()) == (response.status == 500)
        connection.close()


def test_a_method_that_the_lab_lacks_is_not_supported(lab: Lab) -> None:
    with pytest.raises(vmodl.fault.NotSupported):
        lab.vm().RebootGuest()


def test_the_process_ends_with_its_parent(tmp_path: Path, lab: Lab) -> None:
    """A parent that is killed leaves no vCenter behind."""
    certificates = lab.ca_file.parent
    inventory = tmp_path / "inventory.json"
    inventory.write_text(json.dumps({"users": {"u": "p"}, "hosts": [{"name": "h"}], "datastores": []}))
    arguments = ["-m", "lab.vcenter", "--directory", str(tmp_path / "vc"), "--inventory", str(inventory)]
    arguments += ["--certificate", str(certificates / "server.pem"), "--key", str(certificates / "server.key")]
    script = f"import subprocess, sys; subprocess.Popen([sys.executable, *{arguments!r}]).wait()"
    parent = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE)
    assert parent.stdout is not None
    port = json.loads(parent.stdout.readline())["port"]
    assert port
    parent.kill()
    parent.wait()
    assert parent.stdout.read() == b""  # end of file: the child, which holds the pipe's other end, is gone
    parent.stdout.close()


def test_an_unreachable_vcenter_refuses_connections_until_told_and_keeps_its_sessions(shared_lab: Lab) -> None:
    lab = shared_lab.about_new_vm()
    key = lab.si.content.sessionManager.currentSession.key
    task = lab.vm().CreateSnapshotEx_Task(name="meanwhile", description="", memory=False)
    lab.control.be_unreachable()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", lab.port), timeout=5)
    with pytest.raises(OSError):
        lab.si.CurrentTime()
    while not lab.state().snapshots:
        continue
    lab.control.be_reachable()
    for attempt in Retrying(stop=stop_after_delay(10), wait=wait_fixed(0.02), reraise=True):
        with attempt:
            assert lab.si.content.sessionManager.currentSession.key == key
    assert str(task.info.state) == "success"
    shared_lab.renew()


def test_hosts_that_are_away_with_vcenter_serve_their_guests_only(shared_lab: Lab) -> None:
    lab = shared_lab.about_new_vm()
    vm = lab.vm()
    snapshot = lab.snapshot(vm, "away")
    guest, outside = f"guest={vm._moId};disk=2000", f"snapshot={snapshot._moId};disk=2000"
    with NbdClient(lab.address(vm, guest)) as writer, NbdClient(lab.address(vm, outside)) as reader:
        address = lab.address(vm, outside)
        lab.control.be_unreachable(hosts=True)
        writer.write(0, b"w" * 512)
        with pytest.raises(DeltaferryError):
            reader.read_into(0, memoryview(bytearray(512)))
        with pytest.raises(DeltaferryError):
            NbdClient(address)
        lab.control.be_reachable()
        with NbdClient(address) as again:
            assert again.size_bytes == writer.size_bytes
    shared_lab.renew()
