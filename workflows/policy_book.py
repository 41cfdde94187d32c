"""`PolicyBook`: the named replication policies, made at any time and looked up by name (spec §8).

A replication that is given a policy carries a copy of it, in its commit record too: changing or deleting a policy here
changes no replication, and a book that is lost with the Temporal database takes nothing from one.
"""

from temporalio import workflow

with workflow.unsafe.imports_passed_through():
    from deltaferry.model.errors import ErrorKind
    from deltaferry.model.policy import ReplicationPolicy
    from deltaferry.planning.phrases import duration_text
    from deltaferry.planning.policy import ANY_SITE, contradictions
    from workflows import names
    from workflows.messages.operator_input import PolicyOptions
    from workflows.messages.policy_input import PolicyName
    from workflows.messages.policy_state import PolicyBookState
    from workflows.steps import refusal

MAX_POLICIES = 200
_LONGEST_HISTORY = 1000


@workflow.defn(name=names.POLICY_BOOK)
class PolicyBook:
    """Holds the policies; for ever."""

    @workflow.init
    def __init__(self, state: PolicyBookState | None = None) -> None:
        self._state = state or PolicyBookState()

    @workflow.run
    async def run(self, state: PolicyBookState | None = None) -> None:
        """Wait for updates, and go on in a new run when the history has grown long."""
        info = workflow.info()
        if info.workflow_id != names.POLICIES_ID:
            raise refusal(
                ErrorKind.OPERATION_REFUSED, f"There is one book of policies: start it under the id {names.POLICIES_ID}."
            )
        if state is None and info.continued_run_id is not None:
            raise RuntimeError("the state carried over by the previous run cannot be read by this version of the code")
        self._present()
        await workflow.wait_condition(self._should_roll_over)
        await workflow.wait_condition(workflow.all_handlers_finished)
        workflow.continue_as_new(self._state)

    @workflow.update(
        name="create_policy",
        description='Make a named policy. input: {"name": "gold", "rpo_threshold": "PT4H", "retention": "P1D"}',
    )
    def create_policy(self, options: PolicyOptions) -> str:
        """Make a policy."""
        self._check_new(options)
        return self._put(options, "made")

    @create_policy.validator
    def _create_valid(self, options: PolicyOptions) -> None:
        self._check_new(options)

    @workflow.update(
        name="change_policy", description='Change a named policy, whole. input: {"name": "gold", "rpo_threshold": "PT8H"}'
    )
    def change_policy(self, options: PolicyOptions) -> str:
        """Change a policy."""
        self._check_known(options.name)
        return self._put(options, "changed")

    @change_policy.validator
    def _change_valid(self, options: PolicyOptions) -> None:
        self._check_known(options.name)
        _check(options)

    @workflow.update(name="delete_policy", description='Delete a named policy. input: {"name": "gold", "reason": "why"}')
    def delete_policy(self, named: PolicyName) -> str:
        """Delete a policy."""
        self._check_known(named.name)
        del self._state.policies[named.name]
        self._present()
        return f"The policy {named.name} is deleted; replications that were given it keep it."

    @delete_policy.validator
    def _delete_valid(self, named: PolicyName) -> None:
        self._check_known(named.name)

    @workflow.query(description="All named policies.")
    def policies(self) -> list[ReplicationPolicy]:
        """Return the policies, by name."""
        return [self._state.policies[name] for name in sorted(self._state.policies)]

    def _put(self, options: PolicyOptions, done: str) -> str:
        self._state.policies[options.name] = options.policy()
        self._present()
        return f"The policy {options.name} is {done}; replications that were given one of that name keep theirs until they are given this."

    def _check_new(self, options: PolicyOptions) -> None:
        if options.name in self._state.policies:
            raise refusal(
                ErrorKind.OPERATION_REFUSED, f"There is a policy {options.name} already: send change_policy to replace it."
            )
        if len(self._state.policies) >= MAX_POLICIES:
            raise refusal(
                ErrorKind.OPERATION_REFUSED, f"There are {MAX_POLICIES} policies: delete one that is not used any more."
            )
        _check(options)

    def _check_known(self, name: str) -> None:
        if name not in self._state.policies:
            known = ", ".join(sorted(self._state.policies)) or "none"
            raise refusal(ErrorKind.BAD_INPUT, f"There is no policy {name}. Those there are: {known}.")

    def _should_roll_over(self) -> bool:
        info = workflow.info()
        long = info.get_current_history_length() > _LONGEST_HISTORY or info.is_continue_as_new_suggested()
        return long or info.is_target_worker_deployment_version_changed()

    def _present(self) -> None:
        lines = [
            f"- **{policy.name}**: RPO {duration_text(policy.rpo_threshold)}, points kept {duration_text(policy.retention)}, "
            f"app-consistent {f'every {duration_text(policy.app_consistent_every)}' if policy.app_consistent_every else 'never'}"
            for policy in self.policies()
        ]
        workflow.set_current_details("\n".join(["### Replication policies", "", *(lines or ["None yet."])]))


def _check(options: PolicyOptions) -> None:
    found = contradictions(options.policy(), ANY_SITE)
    if found:
        raise refusal(ErrorKind.BAD_INPUT, f"The policy cannot be kept. {' '.join(found)}")
