"""The one list of workflows."""

from workflows.adopt_replications import AdoptReplications
from workflows.enable_replication import EnableReplication
from workflows.ending import CompleteMigration, StopReplication
from workflows.failback import FailbackVm
from workflows.failover import FailoverVm
from workflows.initial_replication import InitialReplication
from workflows.migrate_vm import MigrateVm
from workflows.policy_book import PolicyBook
from workflows.recovery_plan import RecoveryPlan
from workflows.replicate_vm import ReplicateVm
from workflows.replication_group import ReplicationGroup
from workflows.reprotect import ReprotectVm
from workflows.resync import Resync
from workflows.site_audit import SiteAudit
from workflows.site_inventory import SiteInventory
from workflows.site_slots import SiteSlots
from workflows.test_migration import CleanUpTest, TestMigration

WORKFLOWS = (
    EnableReplication,
    AdoptReplications,
    ReplicateVm,
    InitialReplication,
    Resync,
    MigrateVm,
    ReprotectVm,
    FailbackVm,
    TestMigration,
    CleanUpTest,
    FailoverVm,
    StopReplication,
    CompleteMigration,
    RecoveryPlan,
    ReplicationGroup,
    PolicyBook,
    SiteSlots,
    SiteInventory,
    SiteAudit,
)
