import random

import pytest

from lab.vcenter.disk import VirtualDisk

CAPACITY = (8 << 20) + 37 * 512


@pytest.fixture
def disk(tmp_path):
    made = VirtualDisk.create(tmp_path, "web-01", CAPACITY)
    yield made
    made.delete()


@pytest.fixture
def rng():
    return random.Random(20260214)


@pytest.fixture
def read_all():
    def read(disk) -> bytes:
        target = bytearray(disk.capacity_bytes)
        disk.read_into(0, memoryview(target))
        return bytes(target)

    return read
