import base64
import http.client
from pathlib import Path
from urllib.parse import quote

import pytest

from lab.vcenter.faults import FaultName, FaultRequest
from tests.unit.lab_vcenter_soap.running import PASSWORD, USER, Lab

BASIC = "Basic " + base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()


def _get(lab: Lab, path: str, method: str = "GET", **headers: str) -> tuple[int, bytes, str]:
    connection = http.client.HTTPSConnection("127.0.0.1", lab.port, context=lab.tls())
    connection.request(method, path, headers=headers)
    response = connection.getresponse()
    answer = response.status, response.read(), response.headers.get("Content-Range", "")
    connection.close()
    return answer


def _path(lab: Lab, encode: int = 1) -> str:
    centre, store = "Lab", "ds1"
    for _ in range(encode):
        centre, store = quote(centre), quote(store)
    return f"/folder/{lab.name}/{lab.name}-flat.vmdk?dcPath={centre}&dsName={store}"


@pytest.fixture
def off(fresh_lab: Lab) -> Lab:
    """A lab about a VM that holds a known block and is powered off."""
    vm = fresh_lab.state().moref
    fresh_lab.control.write(vm, 2000, 4096, b"content".ljust(512))
    fresh_lab.control.power_off(vm)
    return fresh_lab


def test_a_range_of_a_powered_off_vms_disk_is_read_with_the_sessions_cookie(off: Lab) -> None:
    cookie = off.si._stub.cookie
    assert _get(off, _path(off), Range="bytes=4096-4607", Cookie=cookie) == (
        206,
        b"content".ljust(512),
        f"bytes 4096-4607/{16 << 20}",
    )


@pytest.mark.parametrize("encode", [1, 2])
def test_basic_authentication_works_however_often_the_query_is_encoded(off: Lab, encode: int) -> None:
    status, body, _ = _get(off, _path(off, encode), Range="bytes=-512", Authorization=BASIC)
    assert (status, body) == (206, bytes(512))


def test_a_running_vms_disk_is_locked_also_below_a_snapshot(fresh_lab: Lab) -> None:
    fresh_lab.snapshot(fresh_lab.vm(), "below")
    assert _get(fresh_lab, _path(fresh_lab), Authorization=BASIC)[0] == 500


def test_who_does_not_log_in_gets_nothing(off: Lab) -> None:
    assert _get(off, _path(off))[0] == 401
    wrong = "Basic " + base64.b64encode(f"{USER}:x".encode()).decode()
    assert _get(off, _path(off), Authorization=wrong)[0] == 401
    assert _get(off, _path(off), Authorization="Basic ?")[0] == 401


@pytest.mark.parametrize(
    "path",
    [
        "/folder/none-flat.vmdk?dcPath=Lab&dsName=ds1",
        "/folder/../../inventory.json?dcPath=Lab&dsName=ds1",
        "/folder/x?dcPath=Lab",
    ],
)
def test_nothing_outside_the_datastore_is_found(off: Lab, path: str) -> None:
    assert _get(off, path, Authorization=BASIC)[0] == 404


def test_a_range_after_the_end_cannot_be_satisfied(off: Lab) -> None:
    assert _get(off, _path(off), Range=f"bytes={16 << 20}-", Authorization=BASIC)[0] == 416


def test_head_tells_the_size_and_a_get_without_range_sends_all(off: Lab) -> None:
    assert _get(off, _path(off), method="HEAD", Authorization=BASIC)[:2] == (200, b"")
    status, body, _ = _get(off, _path(off), Authorization=BASIC)
    assert (status, len(body)) == (200, 16 << 20)


def test_an_error_can_be_asked_for(off: Lab) -> None:
    off.control.ask(FaultRequest(FaultName.FOLDER_ERROR, status=503))
    assert _get(off, _path(off), Authorization=BASIC)[0] == 503
    assert _get(off, _path(off), Range="bytes=0-511", Authorization=BASIC)[0] == 206


def test_a_dump_is_what_the_disk_holds(off: Lab, tmp_path: Path) -> None:
    target = tmp_path / "dump.raw"
    off.control.dump(off.state().moref, 2000, target)
    _, body, _ = _get(off, _path(off), Authorization=BASIC)
    assert target.read_bytes() == body
    assert target.stat().st_blocks * 512 < 1 << 20  # holes stay holes
