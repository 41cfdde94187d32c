"""The request of a replication group: one vector for all its members, and one lease for each of them once it is granted.

The group holds the leases while the snapshots are taken. A member that begins its transfer takes its own over: from then on
it gives way, moves to another appliance and releases like any other, and a group that dies takes nothing from it.
"""

import dataclasses
from collections.abc import Mapping
from datetime import datetime

from deltaferry.planning.slot_vectors import Transfer
from deltaferry.planning.slots import Priority, SlotRequest
from workflows.messages.slot import HeldLease, SlotsPart, SlotsWanted, WaitingRequest


def in_groups_hands(wanted: SlotsWanted) -> bool:
    """Return whether a lease's request is a part that its member has not taken over."""
    return bool(wanted.group) and wanted.holder == wanted.group and not wanted.parts


def replications_of(wanted: SlotsWanted) -> tuple[str, ...]:
    """Return the workflow ids of the replications that a request is for."""
    if wanted.parts:
        return tuple(part.replication for part in wanted.parts)
    return (wanted.replication,) if wanted.replication else ()


def request_together(waiting: WaitingRequest, assigned: Mapping[str, str]) -> SlotRequest | None:
    """Return a group's request as the decisions see it; None while one of its members has no appliance."""
    wanted = waiting.wanted
    transfers = [Transfer(assigned.get(p.replication, ""), p.placement.host, p.disks) for p in wanted.parts]
    if any(not transfer.appliance for transfer in transfers):
        return None
    first, *further = transfers
    return SlotRequest(
        holder=wanted.holder,
        request_id=wanted.request_id,
        priority=Priority.DELTA,
        appliance=first.appliance,
        host=first.host,
        disks=first.disks,
        datastores=wanted.placement.datastores,
        ticket=waiting.ticket,
        requested_at=waiting.requested_at,
        further=tuple(further),
    )


def leases_of(wanted: SlotsWanted, granted: SlotRequest, lease_id: str, now: datetime) -> tuple[HeldLease, ...]:
    """Return a lease for each part of a group's request; a part that has to wait for its turn holds its snapshots alone."""
    return tuple(
        HeldLease(
            part_wanted(wanted, part, transfer.appliance, transfer.disks or part.disks),
            f"{lease_id}/{number}",
            now,
            gave_way=transfer.disks == 0,
        )
        for number, (part, transfer) in enumerate(zip(wanted.parts, granted.transfers, strict=True))
    )


def part_wanted(wanted: SlotsWanted, part: SlotsPart, appliance: str, disks: int) -> SlotsWanted:
    """Return one part of a group's request, in the group's hands."""
    return dataclasses.replace(
        wanted,
        request_id=part.request_id,
        appliance=appliance,
        disks=disks,
        placement=part.placement,
        replication=part.replication,
        parts=(),
    )


def asked_as(wanted: SlotsWanted) -> str:
    """Return the request id under which the holder of a lease knows it: a group knows its own, not those of the parts."""
    return wanted.request_id.rpartition("/")[0] if in_groups_hands(wanted) else wanted.request_id
