"""The process itself: its life, its secrets, its control endpoint."""

import json
import os
import select
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from azure.core.exceptions import HttpResponseError

from lab.arm.control import ArmControl, ControlRefused
from lab.arm.crc64 import crc64

PARENT = """
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-m", "lab.arm", *sys.argv[1:]], stdout=subprocess.PIPE)
print(child.pid, child.stdout.readline().decode().strip(), flush=True)
time.sleep(600)
"""


def test_it_dies_with_its_parent(azure, tmp_path):
    accounts = tmp_path / "accounts.json"
    accounts.write_text("{}")
    made = azure.certificates
    options = [
        "--directory",
        tmp_path,
        "--certificate",
        made.certificate_file,
        "--key",
        made.key_file,
        "--ca",
        made.ca_file,
        "--accounts",
        accounts,
    ]
    environment = {**os.environ, "LAB_ARM_TOKEN": "a", "LAB_CONTROL_TOKEN": "b"}
    root = Path(__file__).parents[3]
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, *map(str, options)], stdout=subprocess.PIPE, env=environment, cwd=root
    )
    child, ready = parent.stdout.readline().decode().split(" ", 1)
    assert {"port", "control_port"} <= json.loads(ready).keys()
    descriptor = os.pidfd_open(int(child))
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    ended, _, _ = select.select([descriptor], [], [], 30)
    os.close(descriptor)
    assert ended


def test_no_secret_is_in_its_command_or_its_log(azure):
    service = azure.arm
    command = Path(f"/proc/{service.process.pid}/cmdline").read_bytes()
    log = service.process.log_file.read_bytes()
    key = azure.seeds.credential.account_key.encode()
    for secret in (service.token.encode(), key):
        assert secret not in command
        assert secret not in log


def test_the_control_endpoint_wants_its_token(azure):
    port = azure.arm.process.ready["control_port"]
    with pytest.raises(ControlRefused):
        ArmControl(f"http://127.0.0.1:{port}", azure.arm.token).resources()


def test_the_control_endpoint_refuses_what_does_not_exist(azure):
    with pytest.raises(ControlRefused):
        azure.control.disk_file("/subscriptions/none")


def test_the_control_endpoint_tells_how_operations_ended(azure):
    azure.control.fail_next("disks.create", "InternalServerError")
    with pytest.raises(HttpResponseError):
        azure.empty_disk(azure.name("disk"))
    operation = azure.control.operations()[-1]
    assert (operation.action, operation.status, operation.code) == ("disks.create", "Failed", "InternalServerError")
    assert operation.seconds is not None and operation.seconds >= 0


def test_crc64_is_that_of_azure_storage():
    assert crc64(b"123456789") == 0xAE8B14860A799888
