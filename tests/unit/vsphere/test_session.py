"""The session: verified TLS, log-in, expiry in the middle of things, log-out; against a vCenter in its own process."""

import socket
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from deltaferry.model.errors import DeltaferryError, ErrorKind
from deltaferry.vsphere.client import VSphere
from deltaferry.vsphere.session import Endpoint, Session
from lab.certificates import make_certificates

from .lab_vcenter import OTHER_USER, PASSWORD, SPECIAL_USER, LabVcenter

NAME = "df/lab/0123456789abcdef/1-00000000-0000-4000-8000-000000000001"


def beat() -> None:
    """Nothing to heartbeat to."""


def refusal(client: VSphere) -> DeltaferryError:
    with pytest.raises(DeltaferryError) as caught:
        client.find_vms("web-01")
    assert "second" not in str(caught.value)
    assert PASSWORD not in str(caught.value)
    return caught.value


def kind_of(client: VSphere) -> ErrorKind:
    return refusal(client).kind


def test_users_and_passwords_with_special_characters_log_in(lab: LabVcenter) -> None:
    with VSphere(lab.endpoint(SPECIAL_USER), lambda: PASSWORD) as client:
        assert len(client.find_vms("web-01")) == 1
        assert lab.session_count(SPECIAL_USER) == 1
    assert lab.session_count(SPECIAL_USER) == 0


def test_a_wrong_password_is_rejected_and_a_rotated_one_is_read_again(lab: LabVcenter) -> None:
    passwords = ["first"]
    with VSphere(lab.endpoint(OTHER_USER), lambda: passwords[-1]) as client:
        assert kind_of(client) is ErrorKind.VSPHERE_LOGIN_REJECTED
        passwords.append("second")
        assert len(client.find_vms("web-01")) == 1


def test_a_password_that_was_just_refused_is_not_sent_again_so_that_no_account_is_locked(lab: LabVcenter) -> None:
    with VSphere(lab.endpoint(OTHER_USER), lambda: "first") as client:
        assert kind_of(client) is ErrorKind.VSPHERE_LOGIN_REJECTED
        sent = lab.calls("Login")
        assert kind_of(client) is ErrorKind.VSPHERE_LOGIN_REJECTED
        assert lab.calls("Login") == sent


def test_a_password_that_cannot_be_read_is_a_configuration_error(lab: LabVcenter, tmp_path: Path) -> None:
    with VSphere(lab.endpoint(OTHER_USER), (tmp_path / "absent").read_text) as client:
        assert kind_of(client) is ErrorKind.BAD_CONFIGURATION


def test_a_server_whose_authority_is_unknown_is_refused_on_loopback_too(lab: LabVcenter, tmp_path: Path) -> None:
    stranger = make_certificates(tmp_path / "other")
    sent = lab.calls("Login")
    for endpoint in (lab.endpoint(ca_file=stranger.ca_file), Endpoint("127.0.0.1", "nobody", lab.port)):
        with VSphere(endpoint, lambda: PASSWORD) as client:
            error = refusal(client)
        assert error.kind is ErrorKind.VSPHERE_UNREACHABLE
        assert "certificate is not trusted" in error.detail
    assert lab.calls("Login") == sent


def test_a_certificate_for_another_name_is_refused(lab: LabVcenter) -> None:
    with VSphere(lab.endpoint(host="0.0.0.0"), lambda: PASSWORD) as client:
        error = refusal(client)
    assert error.kind is ErrorKind.VSPHERE_UNREACHABLE
    assert "certificate is not trusted" in error.detail


def test_a_ca_file_that_cannot_be_read_is_a_configuration_error(lab: LabVcenter, tmp_path: Path) -> None:
    with VSphere(lab.endpoint(ca_file=tmp_path / "absent.pem"), lambda: PASSWORD) as client:
        assert kind_of(client) is ErrorKind.BAD_CONFIGURATION


def test_nobody_listening_and_nobody_answering_are_both_unreachable(lab: LabVcenter) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        mute = Endpoint("127.0.0.1", "u", port, lab.certificates.ca_file, timeout_s=0.2)
        with VSphere(mute, lambda: PASSWORD) as client:
            assert kind_of(client) is ErrorKind.VSPHERE_UNREACHABLE
    with VSphere(mute, lambda: PASSWORD) as client:
        assert kind_of(client) is ErrorKind.VSPHERE_UNREACHABLE


def test_a_vcenter_that_was_away_is_used_again_when_it_is_back(lab: LabVcenter) -> None:
    with VSphere(lab.endpoint(), lambda: PASSWORD) as client:
        client.find_vms("web-01")
        with lab.unreachable():
            assert kind_of(client) is ErrorKind.VSPHERE_UNREACHABLE
        assert len(client.find_vms("web-01")) == 1


def test_a_listing_whose_paging_token_died_with_its_session_begins_again(lab: LabVcenter) -> None:
    with VSphere(lab.endpoint(), lambda: PASSWORD) as client:
        client.find_vms("web-01")
        lab.fault("InvalidArgument", "ContinueRetrievePropertiesEx")
        assert kind_of(client) is ErrorKind.VSPHERE_FAULT
        lab.fault("InvalidArgument", "ContinueRetrievePropertiesEx")
        lab.end_sessions()
        assert len(client.list_vms()) == lab.vm_count


def test_an_expired_session_is_renewed_once_without_the_caller_noticing(lab: LabVcenter) -> None:
    with VSphere(lab.endpoint(), lambda: PASSWORD) as client:
        client.find_vms("web-01")
        lab.end_sessions()
        sent = lab.calls("Login")
        with ThreadPoolExecutor(6) as pool:
            assert all(len(found) == 1 for found in pool.map(client.find_vms, ["web-01"] * 6))
        assert lab.calls("Login") == sent + 1


def test_a_session_that_expires_in_the_middle_of_a_wait_does_not_end_the_wait(lab: LabVcenter, vm: str) -> None:
    with VSphere(lab.endpoint(), lambda: PASSWORD) as client, lab.times(snapshot_s=1.2), ThreadPoolExecutor(1) as pool:
        waiting = threading.Event()
        created = lab.calls("CreateSnapshotEx_Task")
        waits = lab.calls("WaitForUpdatesEx")
        taking = pool.submit(client.take_snapshot, vm, NAME, "", waiting.set)
        assert waiting.wait(10)
        while lab.calls("WaitForUpdatesEx") < waits + 2:
            assert not taking.done()
        lab.end_sessions()
        taken = taking.result(20)
        assert taken.name == NAME
        assert lab.calls("CreateSnapshotEx_Task") == created + 1
        assert [snapshot.name for snapshot in client.read_vm(vm).snapshots] == [NAME]


def test_a_session_that_expires_between_two_calls_of_one_operation_is_renewed(lab: LabVcenter, vm: str) -> None:
    def once() -> Callable[[], None]:
        endings = iter([lab.end_sessions])
        return lambda: next(endings, lambda: None)()

    with VSphere(lab.endpoint(), lambda: PASSWORD) as client:
        taken = client.take_snapshot(vm, NAME, "", once())
        client.remove_snapshot(vm, taken.moref, once())
        assert client.read_vm(vm).snapshots == ()


def test_a_session_that_never_lasts_is_an_error_that_may_pass(lab: LabVcenter, vm: str) -> None:
    with VSphere(lab.endpoint(), lambda: PASSWORD) as client, pytest.raises(DeltaferryError) as caught:
        client.take_snapshot(vm, NAME, "", lab.end_sessions)
    assert caught.value.kind is ErrorKind.VSPHERE_FAULT


def test_a_session_is_kept_alive_by_asking_the_time(lab: LabVcenter) -> None:
    session = Session(lab.endpoint(), lambda: PASSWORD, keepalive_s=0.01)
    before = lab.calls("CurrentTime")
    session.content()
    while lab.calls("CurrentTime") < before + 3:
        assert session.number == 1
    session.close()


def test_closing_logs_out_and_a_closed_client_does_not_log_in_again(lab: LabVcenter) -> None:
    client = VSphere(lab.endpoint(SPECIAL_USER), lambda: PASSWORD)
    client.find_vms("web-01")
    assert lab.session_count(SPECIAL_USER) == 1
    client.close()
    client.close()
    assert lab.session_count(SPECIAL_USER) == 0
    assert kind_of(client) is ErrorKind.INTERRUPTED


def test_no_secret_shows_in_a_repr(lab: LabVcenter) -> None:
    with VSphere(lab.endpoint(), lambda: PASSWORD) as client:
        client.find_vms("web-01")
        assert PASSWORD not in repr(client) + repr(vars(client)) + repr(lab.endpoint())
