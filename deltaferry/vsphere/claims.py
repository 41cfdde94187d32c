"""The VM's claim: an extraConfig entry that says which replication owns the VM, changed by compare-and-set."""

from collections.abc import Iterable
from typing import Any

from deltaferry.model.errors import DeltaferryError, ErrorKind
from deltaferry.model.naming import CLAIM_KEY, MADE_KEY
from deltaferry.model.vm import Claim
from deltaferry.vsphere.locating import locate
from deltaferry.vsphere.properties import ObjectProperties
from deltaferry.vsphere.reconfiguring import reconfigure
from deltaferry.vsphere.session import Session
from deltaferry.vsphere.tasks import no_beat
from deltaferry.vsphere.vocabulary import vim


def extra_value(entries: Iterable[Any], key: str) -> str:
    """Return the value of an extraConfig key, empty where there is none: vSphere deletes a key that is set empty."""
    return next((str(entry.value) for entry in entries if entry.key == key and entry.value), "")


def claim_of(entries: Iterable[Any]) -> Claim | None:
    """Return the claim in a VM's extraConfig. One that is not written as we do still is somebody's claim."""
    return _holder_in(entries, CLAIM_KEY)


def made_for(entries: Iterable[Any]) -> Claim | None:
    """Return for whose failback a VM was made; None for any other VM."""
    return _holder_in(entries, MADE_KEY)


def _holder_in(entries: Iterable[Any], key: str) -> Claim | None:
    value = extra_value(entries, key)
    if not value:
        return None
    installation, _, replication_id = value.partition("/")
    return Claim(installation, replication_id)


def write_claim(session: Session, instance_uuid: str, claim: Claim | None, expected: Claim | None) -> None:
    """Set or remove the claim if it is `expected`, or already `claim`. Raises ALREADY_PROTECTED naming the holder."""

    def decide(row: ObjectProperties) -> Any | None:
        present = claim_of(row.get("config.extraConfig") or ())
        if present == claim:
            return None
        if present != expected:
            raise DeltaferryError(ErrorKind.ALREADY_PROTECTED, _refusal(instance_uuid, present))
        value = f"{claim.installation}/{claim.replication_id}" if claim else ""
        return vim.vm.ConfigSpec(extraConfig=[vim.option.OptionValue(key=CLAIM_KEY, value=value)])

    reconfigure(session, locate(session, instance_uuid), ["config.extraConfig"], decide, no_beat)


def _refusal(instance_uuid: str, present: Claim | None) -> str:
    if present is None:
        return f"VM {instance_uuid} carries no claim ({CLAIM_KEY}), though this replication expected to find its own"
    return (
        f"VM {instance_uuid} is claimed by replication {present.replication_id or '(unknown)'} "
        f"of installation {present.installation} ({CLAIM_KEY})"
    )
