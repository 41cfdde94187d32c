"""What has become of whom something belongs to: what an audit asks first of everything that it sees. Everything here is pure."""

from datetime import datetime, timedelta
from enum import Enum

from deltaferry.model.audit import Existing, Finding, FindingCode, Verdict
from deltaferry.model.naming import Owner


class Fate(Enum):
    """What has become of the replication that something belongs to."""

    FOREIGN = "another installation's"
    ELSEWHERE = "another site's"
    WORKING = "runs"
    PARKED = "runs, and waits for a person"
    ADOPTABLE = "does not run, and has a commit record"
    ENDED = "has just ended"
    UNSURE = "whether it runs is not known"
    GONE = "neither runs nor has a commit record"


def fate(owner: Owner, existing: Existing) -> Fate:
    """Return what has become of a replication. In doubt it is one whose things are left alone."""
    if owner.installation != existing.installation:
        return Fate.FOREIGN
    rid = owner.replication_id
    if any(one.replication_id == rid for one in existing.ended):
        return Fate.ENDED
    recorded = next((one for one in existing.recorded if one.replication_id == rid), None)
    if recorded is not None and recorded.installation != existing.installation:
        return Fate.FOREIGN
    site = recorded.site if recorded is not None else owner.site
    if site and site != existing.site:
        return Fate.ELSEWHERE
    uuids = {owner.instance_uuid, recorded.instance_uuid if recorded is not None else ""} - {""}
    for running in existing.running:
        if running.replication_id == rid:
            return Fate.PARKED if running.parked else Fate.WORKING
        if running.replication_id is None and running.instance_uuid in uuids:
            return Fate.WORKING
    if recorded is not None or rid in existing.unreadable:
        return Fate.ADOPTABLE
    return Fate.GONE if uuids and site else Fate.UNSURE


def young(created_at: datetime | None, now: datetime, grace: timedelta) -> bool:
    """Return whether something is within the grace time. What does not tell its age is not, and is never repaired."""
    return created_at is not None and now - created_at < grace


def new_finding(
    code: FindingCode, verdict: Verdict, what: str, remedy: str, where: str, key: str, rid: str = "", vm: str = ""
) -> Finding:
    """Return a finding of which nothing was done yet. `where` is for people, `key` for programs, `vm` an instance UUID."""
    return Finding(code, verdict, what, where, remedy, key, rid, vm)
