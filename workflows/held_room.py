"""Looking after the room on the datastores while a snapshot is held and no step works under it (spec §2.7)."""

from temporalio import workflow
from temporalio.exceptions import FailureError, is_cancelled_exception

from activities.snapshots import Snapshots
from deltaferry.planning.failure import WAITS_FOR_ROOM
from workflows import names
from workflows.messages.replication_state import Replication
from workflows.messages.step import OnReplication
from workflows.policies import LOOK
from workflows.steps import failure_of, perform


async def look_for_room(replication: Replication) -> None:
    """Raise DATASTORE_FULL if the held snapshot has to be released; where that cannot be told, another look will."""
    try:
        await perform(
            Snapshots.look_for_room,
            OnReplication(replication),
            queue=names.vsphere_queue(replication.ref.site),
            limits=LOOK,
            summary="is there room to hold the snapshot?",
        )
    except FailureError as error:
        if is_cancelled_exception(error) or failure_of(error).kind in WAITS_FOR_ROOM:
            raise
        workflow.logger.warning("free space could not be read, the snapshot is still held: %s", failure_of(error).detail)
