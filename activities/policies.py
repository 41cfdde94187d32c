"""Looking a named replication policy up: a light activity of the control worker, since a workflow cannot ask another one."""

from temporalio import activity
from temporalio.client import Client
from temporalio.service import RPCError, RPCStatusCode

from activities.failures import translated
from deltaferry.model.errors import DeltaferryError, ErrorKind
from deltaferry.model.policy import ReplicationPolicy
from workflows import names


class Policies:
    """Knows the named policies, by asking the book of them."""

    def __init__(self, client: Client) -> None:
        self._client = client

    @activity.defn
    @translated
    async def find_policy(self, name: str) -> ReplicationPolicy:
        """Return the policy of a name. Raises BAD_INPUT, with the names there are, where there is none."""
        found = {policy.name: policy for policy in await self._all()}
        if name not in found:
            raise DeltaferryError(
                ErrorKind.BAD_INPUT,
                f"There is no policy {name}: make it with `deltaferry policy create`. Those there are: {', '.join(sorted(found)) or 'none'}.",
            )
        return found[name]

    async def _all(self) -> list[ReplicationPolicy]:
        try:
            policies: list[ReplicationPolicy] = await self._client.get_workflow_handle(names.POLICIES_ID).query(
                "policies", result_type=list[ReplicationPolicy]
            )
        except RPCError as error:
            if error.status is RPCStatusCode.NOT_FOUND:  # nobody has made a policy yet
                return []
            raise
        return policies
