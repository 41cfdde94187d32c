"""A site's inventory as commands use it: the last one from the gateway store, or a new one by the workflow `SiteInventory`."""

import asyncio
import contextlib
import uuid
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

from temporalio.client import Client, WorkflowQueryFailedError
from temporalio.service import RPCError

from activities.inventory import last_inventory
from console import client as replicating
from console.late import late
from console.outcomes import CommandError, ExitCode
from console.output import Output
from deltaferry.model.errors import ErrorKind
from deltaferry.model.inventory import DiscoveredVm, InventorySummary, SiteInventory
from deltaferry.model.replication import CycleKind
from deltaferry.planning.enable_plan import SiteFacts
from deltaferry.planning.measured_rate import Sample
from deltaferry.planning.selection import Candidate, Selection, SelectionError, parse_selection
from deltaferry.planning.slots import SlotLimits
from deltaferry.planning.throttle import parse_throttle, rate_at
from workers.settings import Settings, SiteSettings
from workflows import names
from workflows.messages.operator_input import InventoryInput
from workflows.messages.replication_state import CycleRecord
from workflows.messages.site import SiteProfile
from workflows.messages.slot import SlotsState

_MEASURED_AT_MOST = 40
"""So many replications are asked for what their cycles measured."""
_MEASURED_WITHIN_S = 20.0
_ANSWER_WITHIN = timedelta(seconds=10)


@dataclass(frozen=True, slots=True)
class KnownSite:
    """A site, what was last found there, and which of its VMs are replicated now."""

    name: str
    all_settings: Settings
    inventory: SiteInventory
    replications: Mapping[str, str]
    """Workflow ids of the running replications, by instance UUID."""

    @property
    def installation(self) -> str:
        """The installation's id."""
        return self.all_settings.installation.id

    @property
    def age(self) -> timedelta:
        """How old the inventory is."""
        return max(datetime.now(UTC) - self.inventory.read_at, timedelta(0))

    def replicated_by(self, vm: DiscoveredVm) -> str:
        """Return what replicates a VM: a workflow id, or the claim of one that does not run; empty if nothing does."""
        running = self.replications.get(vm.vm.instance_uuid)
        if running is not None:
            return running
        claim = vm.vm.claim
        return f"replication {claim.replication_id} of the installation {claim.installation}" if claim is not None else ""

    def candidates(self) -> tuple[Candidate, ...]:
        """Return all VMs to choose from."""
        return tuple(Candidate(vm, replicated=bool(self.replicated_by(vm))) for vm in self.inventory.found.vms)


def site_settings(settings: Settings, site: str) -> SiteSettings:
    """Return a site's settings. Raises CommandError USAGE with the names of the sites that there are."""
    found = settings.sites.get(site)
    if found is None:
        known = ", ".join(sorted(settings.sites)) or "none"
        raise CommandError(
            ExitCode.USAGE,
            f"There is no site {site!r} in the settings file.",
            f"Its sites: {known}.",
            ErrorKind.BAD_INPUT,
        )
    return found


def selection_of(text: str | None) -> Selection | None:
    """Return what an expression chooses, None without one. Raises CommandError USAGE with the parser's sentence."""
    if text is None:
        return None
    try:
        return parse_selection(text)
    except SelectionError as error:
        raise CommandError(ExitCode.USAGE, str(error), kind=ErrorKind.BAD_INPUT) from None


async def known_site(client: Client, settings: Settings, site: str, output: Output, *, refresh: bool) -> KnownSite:
    """Return a site with its last inventory; a new one is taken if there is none, or with `refresh`."""
    of_site = site_settings(settings, site)
    inventory = None if refresh else await _stored(settings, of_site, site)
    if inventory is None:
        output.note(f"Reading the VMs of {site} …")
        await take_inventory(client, site)
        inventory = await _stored(settings, of_site, site)
    if inventory is None:
        raise CommandError(
            ExitCode.NOT_FOUND,
            f"The inventory of {site} was taken, but is not in the gateway store of {of_site.target} as this settings file has it.",
            "Give the command the settings file that the site's source worker has.",
            ErrorKind.STORE_OBJECT_MISSING,
        )
    running = [row.workflow_id async for row in replicating.replications(client, site=site)]
    by_uuid = {workflow_id.rpartition("/")[2]: workflow_id for workflow_id in running}
    return KnownSite(site, settings, inventory, by_uuid)


async def take_inventory(client: Client, site: str) -> InventorySummary:
    """Take a site's inventory now and wait for it. Raises WorkflowFailureError."""
    taken: InventorySummary = await client.execute_workflow(
        names.SITE_INVENTORY,
        InventoryInput(site),
        id=f"{names.inventory_id(site)}/{uuid.uuid4().hex[:8]}",
        task_queue=names.CONTROL_QUEUE,
        result_type=InventorySummary,
    )
    return taken


async def site_facts(client: Client, known: KnownSite) -> SiteFacts:
    """Return the site's limits and appliances of now, as its arbiter has them; as the settings file has them if none answers."""
    profile, assigned = await _of_arbiter(client, known)
    appliances = {profile.appliance, *(scale_out.name for scale_out in profile.appliances)}
    loads = Counter(dict.fromkeys(appliances, 0))
    loads.update(assigned.get(workflow_id, profile.appliance) for workflow_id in known.replications.values())
    throttle = rate_at(parse_throttle(profile.throttle), ZoneInfo(profile.time_zone), datetime.now(UTC))
    return SiteFacts(
        installation=known.installation,
        appliances=loads,
        limits=SlotLimits(
            disks_per_appliance=profile.disks_per_appliance,
            disks_per_host=profile.disks_per_host,
            snapshots_per_datastore=profile.snapshots_per_datastore,
            replications_per_appliance=profile.replications_per_appliance,
            replications_per_site=profile.replications_per_site,
        ),
        datastores={space.name: space for space in known.inventory.found.datastores},
        throttle_bytes_per_s=throttle.bytes_per_s if throttle is not None else None,
    )


async def _of_arbiter(client: Client, known: KnownSite) -> tuple[SiteProfile, Mapping[str, str]]:
    """Return the site's profile, and the appliance of each replication by its workflow id."""
    arbiter = client.get_workflow_handle(names.slots_id(known.name))
    state: SlotsState | None = None
    with contextlib.suppress(RPCError, WorkflowQueryFailedError):  # it does not run before the first replication
        state = await arbiter.query("status", result_type=SlotsState, rpc_timeout=_ANSWER_WITHIN)
    if state is not None:
        return state.profile, state.assigned
    profile: SiteProfile = late("workers.wiring").site_profile(known.all_settings, known.name)
    return profile, {}


async def measured(client: Client, known: KnownSite) -> tuple[Sample, ...]:
    """Return what committed cycles of the site's replications measured; of those that do not answer soon, nothing."""
    chosen = sorted(known.replications.values())[:_MEASURED_AT_MOST]
    asked = [asyncio.ensure_future(replicating.cycles(client.get_workflow_handle(workflow_id))) for workflow_id in chosen]
    if not asked:
        return ()
    done, late_ones = await asyncio.wait(asked, timeout=_MEASURED_WITHIN_S)
    for waiting in late_ones:
        waiting.cancel()
    answered = (task.result() for task in asked if task in done and task.exception() is None)
    return tuple(sample for records in answered for sample in _samples(records))


def _samples(records: tuple[CycleRecord, ...]) -> tuple[Sample, ...]:
    return tuple(
        Sample(record.kind is CycleKind.INITIAL, record.bytes_read, record.duration)
        for record in records
        if record.committed and record.kind is not CycleKind.RESYNC
    )


async def _stored(settings: Settings, site_of: SiteSettings, site: str) -> SiteInventory | None:
    wiring: Any = late("workers.wiring")

    def read() -> SiteInventory | None:
        gateway = wiring.build_stores(settings.targets[site_of.target]).gateway
        return last_inventory(gateway, settings.installation.id, site)

    return await asyncio.to_thread(read)
