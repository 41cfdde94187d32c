"""`SiteInventory`: discovery. It has a site's VMs read and stored; only numbers and a reference pass through its history."""

from temporalio import workflow
from temporalio.exceptions import FailureError

with workflow.unsafe.imports_passed_through():
    from activities.inventory import Inventory
    from activities.site import SiteActivities
    from deltaferry.model.errors import ErrorKind
    from deltaferry.model.inventory import InventorySummary
    from deltaferry.planning.phrases import size_text
    from workflows import names
    from workflows.messages.operator_input import InventoryInput
    from workflows.messages.site import SiteInput
    from workflows.policies import ASK, DISCOVER
    from workflows.refusals import EXAMPLES
    from workflows.steps import failure_of, perform, refusal


@workflow.defn(name=names.SITE_INVENTORY)
class SiteInventory:
    """Takes a site's inventory once: started by the schedule `inventory/<site>`, by `deltaferry discover`, or by hand."""

    @workflow.run
    async def run(self, request: InventoryInput | None = None) -> InventorySummary:
        """Read the site's VMs, store the list, and return it in numbers."""
        if request is None:
            raise refusal(ErrorKind.BAD_INPUT, f"SiteInventory needs an input. Write for example {EXAMPLES['InventoryInput']}")
        try:
            profile = await perform(
                SiteActivities.describe_site,
                SiteInput(request.site),
                queue=names.CONTROL_QUEUE,
                limits=ASK,
                summary=f"site {request.site}",
            )
            taken = await perform(
                Inventory.take_inventory,
                profile,
                queue=names.vsphere_queue(profile.site),
                limits=DISCOVER,
                summary=f"read the VMs of {profile.site}",
            )
        except FailureError as error:
            failure = failure_of(error)
            if failure.kind is ErrorKind.INTERRUPTED:
                raise refusal(
                    ErrorKind.VSPHERE_UNREACHABLE,
                    f"No worker answered for the site {request.site!r}: is its source worker running? ({failure.detail})",
                ) from error
            raise refusal(failure.kind, failure.detail) from error
        workflow.set_current_details(_details(taken))
        return taken


def _details(taken: InventorySummary) -> str:
    """Return what the Temporal UI shows of the reading."""
    rows = (
        ("VMs", f"{taken.vms:,}"),
        ("powered on", f"{taken.powered_on:,}"),
        ("replicated", f"{taken.replicated:,}"),
        ("with change block tracking", f"{taken.tracked:,}"),
        ("with snapshots of others", f"{taken.with_snapshots:,}"),
        ("ESXi hosts", f"{taken.hosts:,}"),
        ("datastores", f"{taken.datastores:,}"),
        ("disks", f"{taken.disks:,}, {size_text(taken.capacity_bytes)}"),
        ("first copies would read at most", size_text(taken.expected_bytes)),
        ("could not be read", f"{taken.unreadable:,}"),
        ("took", f"{taken.seconds:.1f} s"),
        ("stored as", f"`{taken.ref.key}`, {size_text(taken.size_bytes)}"),
    )
    return "\n".join(
        [
            f"### {taken.site} at {taken.read_at:%Y-%m-%d %H:%M:%S} UTC",
            "",
            "| what | number |",
            "|---|---|",
            *(f"| {name} | {value} |" for name, value in rows),
            "",
            f"`deltaferry discover {taken.site}` shows the list.",
        ]
    )
