"""The two Temporal servers that tests of workflows run on, with the search attributes of a deployment."""

import sys
from pathlib import Path

from temporalio.api.enums.v1 import IndexedValueType
from temporalio.api.operatorservice.v1 import AddSearchAttributesRequest
from temporalio.runtime import Runtime
from temporalio.testing import WorkflowEnvironment

from workflows import names
from workflows.plugin import plugin

_KEYS = (
    names.SITE,
    names.VM_NAME,
    names.REPLICATION_STATE,
    names.MIGRATION_STATE,
    names.HEALTH,
    names.LAST_RECOVERY_POINT,
)
_PROGRAMS = Path(sys.executable).parent


async def start_dev_server(runtime: Runtime | None = None) -> WorkflowEnvironment:
    """Start the real server, in memory, on a free port; its client's metrics go where `runtime` says."""
    return await WorkflowEnvironment.start_local(
        runtime=runtime,
        dev_server_existing_path=str(_PROGRAMS / "temporal"),
        dev_server_log_level="error",
        plugins=[plugin()],
        search_attributes=list(_KEYS),
    )


async def start_time_skipping_server() -> WorkflowEnvironment:
    """Start the test server, whose clock jumps over what nobody works in."""
    environment = await WorkflowEnvironment.start_time_skipping(
        test_server_existing_path=str(_PROGRAMS / "temporal-test-server"), plugins=[plugin()]
    )
    types = {key.name: IndexedValueType.ValueType(key.indexed_value_type.value) for key in _KEYS}
    await environment.client.operator_service.add_search_attributes(
        AddSearchAttributesRequest(namespace=environment.client.namespace, search_attributes=types)
    )
    return environment
