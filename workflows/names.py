"""Names of workflows, queues, messages and search attributes: the one place where each stands.

Operators type and read them, services compute them; a change here is a change of the public interface.
"""

from temporalio.common import SearchAttributeKey

CONTROL_QUEUE = "control"


def vsphere_queue(site: str) -> str:
    """Return the queue of a site's vSphere calls."""
    return f"vsphere-{site}"


def transfer_queue(appliance: str) -> str:
    """Return the queue of an appliance's transfers."""
    return f"transfer-{appliance}"


def apply_queue(target: str) -> str:
    """Return the queue of what is done beside a target's stores."""
    return f"apply-{target}"


def azure_queue(target: str) -> str:
    """Return the queue of a target's Azure Resource Manager calls."""
    return f"azure-{target}"


def plan_queue(worker: str) -> str:
    """Return the queue of the scripts that recovery plans run on a worker's machine."""
    return f"plan-{worker}"


def replication_id(site: str, instance_uuid: str) -> str:
    """Return the one workflow id of a VM's replication: services compute it from the VM."""
    return f"vm/{site}/{instance_uuid}"


def initial_id(entity_id: str, number: int) -> str:
    """Return the workflow id of a replication's initial replication."""
    return f"{entity_id}/initial/{number}"


def migration_id(entity_id: str, number: int) -> str:
    """Return the workflow id of a replication's migration."""
    return f"{entity_id}/migrate/{number}"


def test_id(entity_id: str, number: int) -> str:
    """Return the workflow id of a replication's test migration."""
    return f"{entity_id}/test/{number}"


def clean_up_id(entity_id: str, number: int) -> str:
    """Return the workflow id of the clean-up of a replication's test migration."""
    return f"{entity_id}/clean-up/{number}"


def failover_id(entity_id: str, number: int) -> str:
    """Return the workflow id of a step of a replication's failover: making the VM, or undoing that."""
    return f"{entity_id}/failover/{number}"


def reprotect_id(entity_id: str, number: int) -> str:
    """Return the workflow id of what replicates a failed-over VM back to its site."""
    return f"{entity_id}/reprotect/{number}"


def failback_id(entity_id: str, number: int) -> str:
    """Return the workflow id of a replication's failback."""
    return f"{entity_id}/failback/{number}"


def recovery_plan_id(name: str, number: str) -> str:
    """Return the workflow id of a run of a recovery plan."""
    return f"plan/{name}/{number}"


def group_id(site: str, name: str) -> str:
    """Return the workflow id of a replication group."""
    return f"group/{site}/{name}"


def resync_id(entity_id: str, number: int) -> str:
    """Return the workflow id of a replication's resync."""
    return f"{entity_id}/resync/{number}"


def slots_id(site: str) -> str:
    """Return the workflow id of a site's arbiter."""
    return f"slots/{site}"


def inventory_id(site: str) -> str:
    """Return the id of a site's discovery schedule; the workflows that it starts have it with the time behind it."""
    return f"inventory/{site}"


def audit_id(site: str) -> str:
    """Return the id of a site's audit schedule; the workflows that it starts have it with the time behind it."""
    return f"audit/{site}"


ENABLE_REPLICATION = "EnableReplication"
ADOPT_REPLICATIONS = "AdoptReplications"
REPLICATE_VM = "ReplicateVm"
INITIAL_REPLICATION = "InitialReplication"
RESYNC = "Resync"
MIGRATE_VM = "MigrateVm"
STOP_REPLICATION = "StopReplication"
COMPLETE_MIGRATION = "CompleteMigration"
TEST_MIGRATION = "TestMigration"
CLEAN_UP_TEST = "CleanUpTest"
FAILOVER_VM = "FailoverVm"
REPROTECT_VM = "ReprotectVm"
FAILBACK_VM = "FailbackVm"
RECOVERY_PLAN = "RecoveryPlan"
REPLICATION_GROUP = "ReplicationGroup"
POLICY_BOOK = "PolicyBook"
POLICIES_ID = "policies"
"""The workflow id of the one book of named replication policies."""
SITE_SLOTS = "SiteSlots"
SITE_INVENTORY = "SiteInventory"
SITE_AUDIT = "SiteAudit"

# between workflows
SLOTS_REQUESTED = "slots_requested"
SLOTS_RELEASED = "slots_released"
SLOTS_GRANTED = "slots_granted"
SLOTS_ASKED_BACK = "slots_asked_back"
SLOTS_DELAYED = "slots_delayed"
ANNOUNCE_SLOTS = "announce_slots"
SLOTS_ANNOUNCED = "slots_announced"
APPLIANCE_SILENT = "appliance_silent"
REPLICATION_LEFT = "replication_left"
SETTINGS_CHANGED = "settings_changed"
SITE_SETTINGS = "settings"
"""The arbiter's query for the `SiteProfile` that holds now: appliances ask it."""
CYCLE_REQUESTED = "cycle_requested"
CYCLE_FINISHED = "cycle_finished"
JOB_PROGRESSED = "job_progressed"
JOB_FINISHED = "job_finished"
ENTITY_ADOPTED = "entity_adopted"
REVERSE_PROGRESSED = "reverse_progressed"
FINISH_REVERSE = "finish_reverse"
REVERSE_NOW = "reverse_now"
FAILBACK_POLICY_CHANGED = "failback_policy_changed"
OPERATION_WANTED = "operation_wanted"
OPERATION_ANSWERED = "operation_answered"
GROUP_JOIN = "group_join"
GROUP_LEFT = "group_left"
GROUP_HOLD = "group_hold"
GROUP_GO = "group_go"
GROUP_RELEASE = "group_release"
GROUP_ASKS = "group_asks"
SHARED_POINT_MADE = "shared_point_made"
MEMBER_ANSWERED = "member_answered"
MEMBER_READY = "member_ready"
MEMBER_ENDED = "member_ended"

SITE = SearchAttributeKey.for_keyword("Site")
VM_NAME = SearchAttributeKey.for_keyword("VmName")
REPLICATION_STATE = SearchAttributeKey.for_keyword("ReplicationState")
MIGRATION_STATE = SearchAttributeKey.for_keyword("MigrationState")
HEALTH = SearchAttributeKey.for_keyword("Health")
LAST_RECOVERY_POINT = SearchAttributeKey.for_datetime("LastRecoveryPoint")

SEARCH_ATTRIBUTES = {
    key.name: key.indexed_value_type.name.title().replace("_", "")
    for key in (SITE, VM_NAME, REPLICATION_STATE, MIGRATION_STATE, HEALTH, LAST_RECOVERY_POINT)
}
"""Name and type of every search attribute, as `temporal operator search-attribute create` wants them."""
