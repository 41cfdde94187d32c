"""A lab whose workers reach everything through the chaos proxy, and what tests of it share."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

from deltaferry.model.units import MIB
from lab.chaos_proxy_faults import ProxyAction, ProxyFault
from lab.settings import LabSettings, LabTimes
from lab.world import World
from tests.e2e.conftest import Lab
from workflows import names

MANY = 1_000_000
_TIMES = LabTimes(stun_s=0.01, snapshot_s=0.05, consolidation_s=0.05, shutdown_s=0.2, power_s=0.05, reconfigure_s=0.02)
PUT_PAGE = "x-ms-page-write: update"
"""In the head of every Put Page."""


@contextmanager
def proxied_lab(directory: Path, seed: int) -> Iterator[Lab]:
    """Start a lab with the proxy between, and the three workers."""
    settings = LabSettings(
        times=_TIMES,
        search_attributes=names.SEARCH_ATTRIBUTES,
        with_ui=False,
        min_interval=timedelta(seconds=2),
        chunk_max_bytes=8 * MIB,
        threads_per_disk=2,
        chaos_seed=seed,
    )
    with World(directory, settings) as world:
        yield Lab(world, world.worker("control"), world.worker("source"), world.worker("target"))


def disturb(lab: Lab, action: ProxyAction, route: str, share: float, *, method: str = "", retry_after_s: int = 0) -> None:
    """Let a share of a route's requests meet a fault from now on, until the faults are cleared."""
    lab.world.chaos_control.order(
        ProxyFault(action, route=route, method=method, share=share, count=MANY, retry_after_s=retry_after_s)
    )
