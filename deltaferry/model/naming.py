"""Names of everything that Deltaferry writes outside its own process: one rule for each, parsed as well as made.

Source of the limits: vSphere snapshot names have at most 80 characters; blob containers 3 to 63 of `[a-z0-9-]`.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from deltaferry.model.replication import ReplicationRef, Store

CLAIM_KEY = "deltaferry.claim"
"""The extraConfig key that holds a VM's claim."""

FAILBACK_KEY = "deltaferry.failback"
"""The extraConfig key that stands while a VM's disks are written from Azure."""

MADE_KEY = "deltaferry.made"
"""The extraConfig key of a VM that was made for a failback to another place, until that is committed: it may be deleted."""

SNAPSHOT_DESCRIPTION = "Taken by Deltaferry for replication. It is removed when the cycle's data is read."

INSTALLATION_PATTERN = re.compile(r"[a-z0-9-]{1,12}")
_SNAPSHOT = re.compile(r"df/(?P<installation>[a-z0-9-]{1,12})/(?P<replication>[0-9a-f]{16})/(?P<cycle>[0-9]+-[0-9a-f-]{36})(-q)?")


@dataclass(frozen=True, slots=True)
class Owner:
    """Whose something is, as far as its name, metadata or tags tell."""

    installation: str
    replication_id: str
    site: str = ""
    """Empty where the thing does not tell."""
    instance_uuid: str = ""
    """Of the source VM; empty where the thing does not tell."""
    vm_name: str = ""
    made_vms: tuple[str, ...] = ()
    """Of a commit record: instance UUIDs of the VMs that it knows to have been made for a failback to another place."""


def snapshot_prefix(replication: ReplicationRef) -> str:
    """Return how the names of all of a replication's vSphere snapshots begin."""
    return f"df/{replication.installation}/{replication.replication_id}/"


def snapshot_name(replication: ReplicationRef, cycle_key: str) -> str:
    """Return the name of the one vSphere snapshot that a cycle key ever stands for."""
    return snapshot_prefix(replication) + cycle_key


def quiesced_snapshot_name(replication: ReplicationRef, cycle_key: str) -> str:
    """Return the name of the vSphere snapshot for which a cycle has the guest quiesced.

    It is another than that of the snapshot taken instead, so that one which arrives late is told from it.
    """
    return f"{snapshot_name(replication, cycle_key)}-q"


def is_of_installation(name: str, installation: str) -> bool:
    """Return whether a vSphere snapshot's name says that an installation of ours took it."""
    match = _SNAPSHOT.fullmatch(name)
    return match is not None and match["installation"] == installation


def cycle_of_snapshot(name: str) -> str | None:
    """Return the cycle key in one of our snapshot names, or None if the snapshot is not ours."""
    match = _SNAPSHOT.fullmatch(name)
    return match["cycle"] if match else None


_OWNED_SNAPSHOT = re.compile(r"df/(?P<installation>[a-z0-9-]{1,12})/(?P<replication>[0-9a-f]{16})/.+")


def owner_of_snapshot(name: str) -> Owner | None:
    """Return whose a snapshot of Deltaferry's is, of a cycle or of switching change tracking; None for anybody else's."""
    match = _OWNED_SNAPSHOT.fullmatch(name)
    return Owner(match["installation"], match["replication"]) if match else None


def log_container(replication: ReplicationRef) -> str:
    """Return the container of a replication's segments."""
    return f"df-log-{replication.replication_id}"


def gateway_container(replication: ReplicationRef) -> str:
    """Return the container of a replication's plans, manifests, sector sets, checksum maps and commit record."""
    return f"df-gw-{replication.replication_id}"


GATEWAY_CONTAINER_PREFIX = "df-gw-"
"""How all gateway containers begin: `adopt` lists them."""


def seed_container(replication: ReplicationRef) -> str:
    """Return the container of a replication's seed disks."""
    return f"df-seed-{replication.replication_id}"


CONTAINER_PREFIX = "df-"
"""How the names of all containers begin that Deltaferry makes."""

_REPLICATION_CONTAINER = re.compile(r"df-(?P<kind>log|gw|seed)-(?P<replication>[0-9a-f]{16})")
_STORES = {"log": Store.LOG, "gw": Store.GATEWAY, "seed": Store.SEED}


def store_of_container(name: str) -> tuple[Store, str] | None:
    """Return what a replication's container is for, and the replication's id; None for another container."""
    match = _REPLICATION_CONTAINER.fullmatch(name)
    return (_STORES[match["kind"]], match["replication"]) if match else None


def container_metadata(replication: ReplicationRef) -> dict[str, str]:
    """Return the metadata by which a replication's container says whose it is: its name has room for the id only."""
    return {
        "deltaferry_installation": replication.installation,
        "deltaferry_site": replication.site,
        "deltaferry_vm": replication.instance_uuid,
    }


def owner_in_metadata(metadata: Mapping[str, str], replication_id: str) -> Owner | None:
    """Return whose a replication's container is; None for one that was made before containers said so."""
    installation = metadata.get("deltaferry_installation")
    if not installation:
        return None
    return Owner(installation, replication_id, metadata.get("deltaferry_site", ""), metadata.get("deltaferry_vm", ""))


INSTALLATION_TAG = "deltaferry-installation"
REPLICATION_TAG = "deltaferry-replication"
"""The tags of everything that Deltaferry makes through Azure Resource Manager."""

JOB_TAG = "deltaferry-migration"
"""The tag that says which test, failover or migration has made a disk, a network interface or a VM."""

TEST_JOB_PREFIX = "test-"
"""How that tag's value begins for what a test has made."""


def seed_name(disk_key: int) -> str:
    """Return the name of a disk's seed page blob in its container."""
    return f"disk-{disk_key}.vhd"


_SEED = re.compile(r"disk-(?P<key>[0-9]+)\.vhd")


def disk_of_seed(name: str) -> int | None:
    """Return the disk key in the name of a seed page blob, or None for another name."""
    match = _SEED.fullmatch(name)
    return int(match["key"]) if match else None


CYCLES_PREFIX = "cycles/"
"""How the names of all cycles' objects begin: between two cycles nothing below it is needed any more."""


def cycle_prefix(cycle_key: str) -> str:
    """Return how the names of all of a cycle's objects begin, in the log and the gateway container alike."""
    return f"{CYCLES_PREFIX}{cycle_key}/"


def segment_prefix(cycle_key: str, disk_key: int) -> str:
    """Return how the names of a disk's segments in a cycle begin."""
    return f"{cycle_prefix(cycle_key)}{disk_key}/"


def segment_name(cycle_key: str, disk_key: int, number: int) -> str:
    """Return a segment's object name: zero-padded, so that listing is in order."""
    return f"{segment_prefix(cycle_key, disk_key)}{number:010d}"


def plan_name(cycle_key: str, disk_key: int) -> str:
    """Return the name of a disk's plan in the gateway container."""
    return f"{cycle_prefix(cycle_key)}{disk_key}/plan"


def manifest_name(cycle_key: str, disk_key: int, first_segment: int) -> str:
    """Return the name of the manifest of the chunk that begins with a segment."""
    return f"{cycle_prefix(cycle_key)}{disk_key}/manifest-{first_segment:010d}"


def covered_name(cycle_key: str, disk_key: int, first_segment: int, fence: int) -> str:
    """Return the name of the target's record of a chunk, one for each scheduling of its apply."""
    return f"{cycle_prefix(cycle_key)}{disk_key}/covered-{first_segment:010d}-{fence}"


def known_name(cycle_key: str, disk_key: int) -> str:
    """Return the name of the plan of what a resync pass sends of a disk without comparing."""
    return f"{cycle_prefix(cycle_key)}{disk_key}/known"


def survey_name(cycle_key: str, disk_key: int) -> str:
    """Return the name of the plan of what a resync pass compares of a disk on the source."""
    return f"{cycle_prefix(cycle_key)}{disk_key}/survey"


def seed_check_name(cycle_key: str, disk_key: int, position_bytes: int) -> str:
    """Return the name of the record of a disk's seed, checked from an offset on."""
    return f"{cycle_prefix(cycle_key)}{disk_key}/seed-check-{position_bytes:016d}"


def differs_name(cycle_key: str, disk_key: int, position_bytes: int) -> str:
    """Return the name of the plan of what differs, compared from an offset on."""
    return f"{cycle_prefix(cycle_key)}{disk_key}/differs-{position_bytes:016d}"


def checksum_map_prefix(disk_key: int) -> str:
    """Return how the names of a disk's checksum map chunks begin."""
    return f"checksums/{disk_key}/"


COMMIT_RECORD = "commit-record"
"""The gateway container's object from which `adopt` starts a replication again."""

VM_BEFORE = "vm-before"
"""The gateway container's object that says how the VM was before it was enabled."""

SOURCE_HARDWARE = "source-hardware"
"""The gateway container's object that says what the source VM was made of when a cycle last looked."""

POWER_OFFS = "power-offs"
"""The gateway container's object with the instants at which we began to power the source off."""


FAILBACK_LEFT = "failback-left"
"""The gateway container's object that says how we left the disks at the site after the last write from Azure."""


def hashes_name(cycle_key: str, disk_key: int, number: int) -> str:
    """Return the name of a chunk of the checksums of a managed disk's snapshot, in a pass back to the site."""
    return f"{cycle_prefix(cycle_key)}{disk_key}/hashes-{number:06d}"


def disk_snapshot_name(replication: ReplicationRef, disk_key: int, cycle_key: str) -> str:
    """Return the name of a managed disk's snapshot in a pass back to the site: at most 80 of `[a-z0-9-]` (facts A1)."""
    return f"{disk_snapshot_prefix(replication.replication_id)}{disk_key}-{cycle_key.removeprefix('reverse-')}"


def disk_snapshot_prefix(replication_id: str) -> str:
    """Return how the names of all such snapshots of a replication begin."""
    return f"df-{replication_id}-"


def quiesce_name(cycle_key: str) -> str:
    """Return the name of the gateway object that says what became of a cycle's request to quiesce the guest."""
    return f"{cycle_prefix(cycle_key)}quiesce"


def freeze_mark_name(cycle_key: str) -> str:
    """Return the name of the gateway object with the mark of the guest's freeze script from before a cycle asked for a freeze."""
    return f"{cycle_prefix(cycle_key)}freeze-mark"


def present_name(cycle_key: str) -> str:
    """Return the name of the gateway object that says how the source's disks were when a pass without a snapshot began."""
    return f"{cycle_prefix(cycle_key)}present"


WRAPPED_KEY = "data-key"
"""The gateway container's object that holds the wrapped data key."""


def history_name(run_id: str) -> str:
    """Return the name of an archived workflow history."""
    return f"histories/{run_id}.json"


POINTS_PREFIX = "points/"
"""How the names of the records of all recovery points begin, in the gateway container. A point without its record does not exist."""

CONDEMNED_PREFIX = "points-condemned/"
"""How the names of the records begin of points whose snapshots are being deleted."""

PINS_PREFIX = "points-pinned/"
"""How the names of all pins begin."""

POINT_LIST = "point-list"
"""The gateway container's object with the last listing of all recovery points."""


def point_name(cycle_key: str) -> str:
    """Return the name of the record of the recovery point that a cycle committed."""
    return f"{POINTS_PREFIX}{cycle_key}"


def condemned_name(cycle_key: str) -> str:
    """Return the name of a recovery point's record while its snapshots are being deleted."""
    return f"{CONDEMNED_PREFIX}{cycle_key}"


def pin_prefix(cycle_key: str) -> str:
    """Return how the names of a recovery point's pins begin."""
    return f"{PINS_PREFIX}{cycle_key}/"


def pin_name(cycle_key: str, holder: str) -> str:
    """Return the name of a holder's pin on a recovery point; `holder` is a workflow id."""
    return f"{pin_prefix(cycle_key)}{holder}"


COPIES_PREFIX = "copies/"
"""How the names of all copies of recovery points begin, in the seed container."""


def copies_prefix(job: str) -> str:
    """Return how the names of the copies begin that a test migration or failover made; `job` is unique in the replication."""
    return f"{COPIES_PREFIX}{job}/"


def job_of_copy(name: str) -> str | None:
    """Return which job made a copy of a recovery point, or None for another blob."""
    job, _, rest = name.removeprefix(COPIES_PREFIX).partition("/")
    return job if name.startswith(COPIES_PREFIX) and job and rest else None


def copy_name(job: str, cycle_key: str, disk_key: int) -> str:
    """Return the name of a job's copy of a recovery point's disk: another point is another blob."""
    return f"{copies_prefix(job)}{cycle_key}/{seed_name(disk_key)}"


SITES_CONTAINER = "df-sites"
"""The gateway container of what is kept of whole sites: no replication's, so it outlives them all."""


def inventory_name(installation: str, site: str) -> str:
    """Return the name of a site's last inventory in its container."""
    return f"{installation}/{site}/inventory"


def audits_prefix(installation: str, site: str) -> str:
    """Return how the names of all objects of a site's audits begin in `SITES_CONTAINER`."""
    return f"{installation}/{site}/audits/"


def audit_name(installation: str, site: str, audit_key: str, part: str) -> str:
    """Return the name of what one step of an audit has stored. Audit keys begin with the time: their order is that of time."""
    return f"{audits_prefix(installation, site)}{audit_key}/{part}"
