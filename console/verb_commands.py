"""The verbs that are sent to a replication and answered by a sentence; what is refused ends with exit code 3."""

from collections.abc import Callable

import typer
from rich.text import Text
from temporalio.client import Client

from console import client as replicating
from console.options import (
    ConfigOption,
    JsonOption,
    PropertiesOption,
    ReasonOption,
    SiteOption,
    TargetDiskSku,
    TargetLicenseType,
    TargetNetwork,
    TargetOsType,
    TargetResourceGroup,
    TargetSize,
    TargetSubnet,
    TargetTags,
    TargetVmName,
    TargetZone,
    VmArgument,
    target_properties,
)
from console.outcomes import CommandError, ExitCode
from console.session import Session
from deltaferry.model.states import Operation
from workflows.messages.operator_input import Reason, TargetProperties

app = typer.Typer()


def _send(session: Session, vm: str, site: str | None, operation: Operation, argument: Callable[[], object]) -> None:
    async def work(client: Client) -> None:
        value = argument()
        handle = await replicating.find(client, vm, site)
        sentence = await replicating.send(handle, operation, value)
        session.output.result(Text(sentence), {"workflow_id": handle.id, "operation": operation, "result": sentence})

    session.run(work)


@app.command(epilog='Example: deltaferry pause web-01 --reason "storage maintenance"')
def pause(
    vm: VmArgument, site: SiteOption = None, reason: ReasonOption = "", config: ConfigOption = None, as_json: JsonOption = False
) -> None:
    """Let the running cycle finish, then run none until resume."""
    _send(Session(config, as_json=as_json), vm, site, Operation.PAUSE, lambda: Reason(reason))


@app.command(epilog="Example: deltaferry resume web-01")
def resume(
    vm: VmArgument, site: SiteOption = None, reason: ReasonOption = "", config: ConfigOption = None, as_json: JsonOption = False
) -> None:
    """Run cycles again: after a pause, or of a VM that was migrated."""
    _send(Session(config, as_json=as_json), vm, site, Operation.RESUME, lambda: Reason(reason))


@app.command(epilog="Example: deltaferry retry web-01")
def retry(
    vm: VmArgument, site: SiteOption = None, reason: ReasonOption = "", config: ConfigOption = None, as_json: JsonOption = False
) -> None:
    """Try again what failed and waits for an operator."""
    _send(Session(config, as_json=as_json), vm, site, Operation.RETRY, lambda: Reason(reason))


@app.command(epilog="Example: deltaferry rollback web-01")
def rollback(
    vm: VmArgument, site: SiteOption = None, reason: ReasonOption = "", config: ConfigOption = None, as_json: JsonOption = False
) -> None:
    """Power the source on again after a migration that failed behind its shut-down."""
    _send(Session(config, as_json=as_json), vm, site, Operation.ROLLBACK, lambda: Reason(reason))


@app.command(epilog="Example: deltaferry target web-01 --target-size Standard_D8s_v5 --target-tag owner=web")
def target(
    vm: VmArgument,
    site: SiteOption = None,
    target_vm_name: TargetVmName = None,
    target_size: TargetSize = None,
    target_resource_group: TargetResourceGroup = None,
    target_network: TargetNetwork = None,
    target_subnet: TargetSubnet = None,
    target_zone: TargetZone = None,
    target_disk_sku: TargetDiskSku = None,
    target_license_type: TargetLicenseType = None,
    target_os_type: TargetOsType = None,
    target_tag: TargetTags = None,
    properties: PropertiesOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Change properties of the VM to make in Azure; what is not given stays as it is."""

    def changes() -> TargetProperties:
        given = target_properties(
            properties,
            target_tag,
            vm_name=target_vm_name,
            size=target_size,
            resource_group=target_resource_group,
            network=target_network,
            subnet=target_subnet,
            zone=target_zone,
            disk_sku=target_disk_sku,
            license_type=target_license_type,
            os_type=target_os_type,
        )
        if given == TargetProperties():
            raise CommandError(
                ExitCode.USAGE, "There is nothing to change.", "Give at least one target property, e.g. --target-size."
            )
        return given

    _send(Session(config, as_json=as_json), vm, site, Operation.UPDATE_TARGET, changes)
