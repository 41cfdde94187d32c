"""The one list of workflows."""

from workflows.adopt_replications import AdoptReplications
from workflows.enable_replication import EnableReplication
from workflows.ending import CompleteMigration, StopReplication
from workflows.initial_replication import InitialReplication
from workflows.migrate_vm import MigrateVm
from workflows.replicate_vm import ReplicateVm
from workflows.resync import Resync
from workflows.site_audit import SiteAudit
from workflows.site_inventory import SiteInventory
from workflows.site_slots import SiteSlots

WORKFLOWS = (
    EnableReplication,
    AdoptReplications,
    ReplicateVm,
    InitialReplication,
    Resync,
    MigrateVm,
    StopReplication,
    CompleteMigration,
    SiteSlots,
    SiteInventory,
    SiteAudit,
)
