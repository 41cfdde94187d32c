"""The read-only checks before replication is enabled (spec §9)."""

from collections.abc import Mapping

from temporalio import activity

from activities.adapters import Site, Target
from activities.failures import translated
from activities.held_snapshots import placement
from activities.target_vm import ownership_tags, resolve
from deltaferry.model.errors import DeltaferryError, ErrorKind
from deltaferry.model.vm import SourceVm
from deltaferry.planning.disks import replicated_disks
from deltaferry.planning.findings import Finding, FindingCode, Severity
from deltaferry.planning.guests import generation, os_type
from deltaferry.planning.prerequisites import CheckFacts, check
from workflows.messages.site import CheckedSource, CheckedTarget, CheckSourceInput, CheckTargetInput, FindingView


class SourceChecks:
    """Finds a VM in its site and checks it."""

    def __init__(self, sites: Mapping[str, Site]) -> None:
        self._sites = sites

    @activity.defn
    @translated
    def check_source(self, request: CheckSourceInput) -> CheckedSource:
        """Return the VM and all findings about it. Raises VM_NOT_FOUND, VM_AMBIGUOUS."""
        site = self._sites[request.profile.site]
        vm = self._find(site, request.vm)
        facts = CheckFacts(
            target_name=request.target.vm_name or vm.name,
            installation=request.profile.installation,
            declared_os=request.target.os_type,
            missing_privileges=site.hypervisor.missing_privileges(vm.instance_uuid),
            missing_for_failback=site.hypervisor.missing_for_failback(vm.instance_uuid) if request.failback_wanted else (),
            datastores=site.hypervisor.datastore_space(vm.instance_uuid),
        )
        return CheckedSource(
            instance_uuid=vm.instance_uuid,
            vm_name=vm.name,
            disks=replicated_disks(vm),
            generation=generation(vm),
            os_type=os_type(vm, request.target.os_type),
            cpus=vm.cpus,
            memory_mib=vm.memory_mib,
            placement=placement(vm),
            findings=tuple(_view(finding) for finding in check(vm, facts)),
        )

    def _find(self, site: Site, reference: str) -> SourceVm:
        found = site.hypervisor.find_vms(reference)
        if not found:
            raise DeltaferryError(
                ErrorKind.VM_NOT_FOUND, f"The site {site.profile.site!r} has no VM with the name or instance UUID {reference!r}."
            )
        if len(found) > 1:
            uuids = ", ".join(sorted(vm.instance_uuid for vm in found))
            raise DeltaferryError(
                ErrorKind.VM_AMBIGUOUS,
                f"The site {site.profile.site!r} has {len(found)} VMs named {reference!r}. Give one of these instance UUIDs: {uuids}.",
            )
        return found[0]


class TargetChecks:
    """Checks that what the target VM needs is there."""

    def __init__(self, targets: Mapping[str, Target]) -> None:
        self._targets = targets

    @activity.defn
    @translated
    def check_target(self, request: CheckTargetInput) -> CheckedTarget:
        """Return a finding for everything that is missing, and for a VM name that is taken."""
        target = self._targets[request.target]
        vm = resolve(request.properties, target.defaults, request.default_vm_name)
        findings = [
            _view(Finding(FindingCode.TARGET_MISSING, Severity.ERROR, sentence, "Create it, or correct the target properties."))
            for sentence in target.cloud.missing(vm.resource_group, vm.network, vm.subnet)
        ]
        tags = ownership_tags(request.replication) if request.replication else {}
        if not findings and target.cloud.vm_exists(vm.resource_group, vm.name, tags):
            findings.append(
                _view(
                    Finding(
                        FindingCode.TARGET_NAME_TAKEN,
                        Severity.ERROR,
                        f"The resource group {vm.resource_group!r} has a VM named {vm.name!r} already.",
                        'Give another name in the target properties: {"target": {"vm_name": "…"}}.',
                    )
                )
            )
        return CheckedTarget(findings=tuple(findings))


def _view(finding: Finding) -> FindingView:
    return FindingView(finding.code.value, finding.severity.value, finding.cause, finding.remedy)
