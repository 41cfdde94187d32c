"""Single steps of the reverse direction that more than one procedure takes."""

import dataclasses

from temporalio import workflow

from activities.failback_elsewhere import FailbackElsewhere
from activities.failback_site import FailbackSite
from activities.failback_target import FailbackTarget
from activities.failback_verification import FailbackVerification
from workflows import names
from workflows.messages.failback import (
    DiscardBackInput,
    DropSnapshotsInput,
    KeepMadeVmInput,
    MakeVmInput,
    OnMadeVm,
    OnTarget,
    ReleaseFailbackInput,
    TargetSurvey,
)
from workflows.messages.operator_input import TargetProperties
from workflows.messages.replication_state import Replication
from workflows.messages.reverse import PassState
from workflows.messages.reverse_records import MadeVm
from workflows.messages.step import OnReplication
from workflows.policies import AZURE, PREPARE, VERIFY
from workflows.steps import perform


async def survey_target(replication: Replication, target: TargetProperties) -> TargetSurvey:
    """Look at the VM in Azure and match its disks with those at the site."""
    return await perform(
        FailbackTarget.survey_failed_over,
        OnTarget(replication, target),
        queue=names.azure_queue(replication.ref.target),
        limits=VERIFY,
        summary="look at the VM in Azure",
    )


async def drop_snapshots(replication: Replication, target: TargetProperties, keep: tuple[str, ...] = ()) -> None:
    """Delete the replication's snapshots of managed disks, but for those to keep."""
    await perform(
        FailbackTarget.drop_snapshots,
        DropSnapshotsInput(replication, target, keep),
        queue=names.azure_queue(replication.ref.target),
        limits=AZURE,
        summary="delete snapshots of managed disks",
    )


async def discard_pass(replication: Replication, state: PassState) -> None:
    """Delete what a pass has stored."""
    await perform(
        FailbackVerification.discard_back,
        DiscardBackInput(replication, state.cycle_key),
        queue=names.apply_queue(replication.ref.target),
        limits=VERIFY,
        summary=f"pass {state.number}: delete what it stored",
    )


async def forget_site(replication: Replication) -> None:
    """Forget how the disks at the site were left: the next reprotect compares everything first."""
    await perform(
        FailbackVerification.forget_site,
        OnReplication(replication),
        queue=names.apply_queue(replication.ref.target),
        limits=VERIFY,
        summary="forget how the disks at the site were left",
    )


def at_place(replication: Replication, made: MadeVm) -> Replication:
    """Return the replication with the VM that was made at another place, for all that is done at the site."""
    return dataclasses.replace(
        replication, ref=dataclasses.replace(replication.ref, instance_uuid=made.instance_uuid), disks=made.disks
    )


async def make_vm(request: MakeVmInput) -> MadeVm:
    """Have the VM at another place made."""
    return await perform(
        FailbackElsewhere.make_vm,
        request,
        queue=names.vsphere_queue(request.replication.ref.site),
        limits=PREPARE,
        summary="make a VM at the other place",
    )


async def delete_made_vm(replication: Replication, instance_uuid: str) -> None:
    """Delete a VM that was made at another place."""
    await perform(
        FailbackElsewhere.delete_made_vm,
        OnMadeVm(replication, instance_uuid),
        queue=names.vsphere_queue(replication.ref.site),
        limits=PREPARE,
        summary="delete the VM that was made at the other place",
    )


async def keep_made_vm(replication: Replication, made: MadeVm) -> None:
    """Let a VM that was made at another place stay for good."""
    await perform(
        FailbackElsewhere.keep_made_vm,
        KeepMadeVmInput(replication, made),
        queue=names.vsphere_queue(replication.ref.site),
        limits=PREPARE,
        summary="let the VM that was made stay",
    )


async def undo_reverse(replication: Replication, target: TargetProperties, made: tuple[str, ...] = ()) -> None:
    """Undo all of reprotect: its snapshots in Azure, and what it did at the site, last.

    That is the VMs that were made at another place, by their instance UUIDs, and the mark on the VM that it came from.
    `ReprotectVm` does so itself; where it could not, or was ended from outside, the end of the replication does.
    """
    await drop_snapshots(replication, target)
    await forget_site(replication)
    for instance_uuid in made:
        await delete_made_vm(replication, instance_uuid)
    await release_mark(replication)


async def release_mark(replication: Replication) -> None:
    """Take the failback mark off the VM at the site; no-op without one."""
    await perform(
        FailbackSite.release_failback,
        ReleaseFailbackInput(replication),
        queue=names.vsphere_queue(replication.ref.site),
        limits=PREPARE,
        summary="take the failback mark off the VM at the site",
    )


def new_pass(number: int, *, final: bool = False) -> PassState:
    """Return a pass that is about to begin, under a key that no other pass has."""
    return PassState(number, f"reverse-{number}-{workflow.uuid4()}", workflow.now(), final)
