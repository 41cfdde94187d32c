"""Which adapter stands behind which port: the one place that knows both the settings and the implementations."""

import tempfile
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

from azure.core.credentials import TokenCredential as AzureCredential
from azure.identity import DefaultAzureCredential

from activities.adapters import Site, Stores, Target, TargetDefaults
from activities.progress import beat_for_a_request
from deltaferry.azure.accounts import StorageAccount
from deltaferry.azure.arm import ArmClients, ArmSettings
from deltaferry.azure.automation import AutomationRunbooks
from deltaferry.azure.credentials import AccountKey, ServicePrincipal, StaticToken
from deltaferry.azure.keys import LocalKeyFile, VaultKey
from deltaferry.azure.object_store import BlobObjectStore
from deltaferry.azure.recovery_points import BlobRecoveryPoints
from deltaferry.azure.seeds import PageBlobSeeds
from deltaferry.azure.target_cloud import AzureTarget
from deltaferry.blocks.plane import ProcessDataPlane
from deltaferry.blocks.throttle import Budget
from deltaferry.model.replication import Store
from deltaferry.model.units import MIB
from deltaferry.ports.automation import Runbooks
from deltaferry.ports.failback import TwoWayExports, TwoWayPlane
from deltaferry.ports.stores import KeyWrapper
from deltaferry.vsphere.client import VSphere
from deltaferry.vsphere.exports import PlainNbdExports, VddkExports
from deltaferry.vsphere.exports import VddkSettings as VddkExportSettings
from deltaferry.vsphere.session import Endpoint
from workers.settings import Reader, Settings, SiteSettings
from workers.settings_target import (
    AccountSettings,
    ClientSecretCredential,
    DefaultCredential,
    LocalFileKeys,
    TargetSettings,
)
from workflows.messages.site import ApplianceProfile, SiteProfile

_NETWORK_TIMEOUT_S = 20.0
"""Of one call to vCenter: below the steps' heartbeat limit (`workflows/policies.py`), since no beat runs meanwhile."""


def site_profile(settings: Settings, name: str) -> SiteProfile:
    """Return what workflows need to know of a site."""
    site = settings.sites[name]
    return SiteProfile(
        installation=settings.installation.id,
        site=name,
        appliance=site.appliance,
        target=site.target,
        min_interval=site.min_interval,
        max_interval=site.max_interval,
        disks_per_appliance=site.limits.disks_per_appliance,
        disks_per_host=site.limits.disks_per_host,
        snapshots_per_datastore=site.limits.snapshots_per_datastore,
        time_zone=site.time_zone,
        replications_per_appliance=site.limits.replications_per_appliance,
        replications_per_site=site.limits.replications_per_site,
        appliances=tuple(ApplianceProfile(appliance, own.blackout) for appliance, own in site.scale_out.items()),
        blackout=site.blackout,
        off_hours=site.off_hours,
        throttle=site.throttle,
        pre_failover_weight=site.pre_failover_weight,
        sample_share=site.sample_share,
        scrub_every=site.scrub_every,
    )


def data_plane(settings: Settings, budget: Budget | None = None) -> TwoWayPlane:
    """Return the data plane of a worker process; what it sends to the log store stays within the `budget`, if there is one."""
    transfer = settings.transfer
    return ProcessDataPlane(
        threads_per_disk=transfer.threads_per_disk,
        page_blob_bytes_per_s=float(transfer.page_blob_rate_mib_s * MIB),
        budget=budget,
    )


def build_site(settings: Settings, name: str, budget: Budget | None = None) -> tuple[Site, Callable[[], None]]:
    """Return a site's source side, and what closes it. Nothing is connected to before the first call.

    All its transfers in this process share the `budget`, which its owner closes; without one nothing throttles them.
    """
    site = settings.sites[name]
    endpoint = _endpoint(site)
    vsphere = VSphere(endpoint, site.password.read)
    built = Site(
        profile=site_profile(settings, name),
        hypervisor=vsphere,
        exports=_exports(site, endpoint),
        stores=build_stores(settings.targets[site.target]),
        plane=data_plane(settings, budget),
        chunk_max=settings.transfer.chunk_max,
        chunk_max_bytes=settings.transfer.chunk_max_bytes,
    )
    return built, vsphere.close


def build_target(settings: Settings, name: str) -> Target:
    """Return a target's side."""
    target = settings.targets[name]
    return Target(
        name=name,
        stores=build_stores(target),
        cloud=AzureTarget(ArmClients(_arm(target)), target.seed.resource_id or ""),
        plane=data_plane(settings),
        points=build_points(target),
        defaults=TargetDefaults(target.resource_group, target.network, target.subnet, target.vm_size, target.disk_sku),
        chunk_max=settings.transfer.chunk_max,
        chunk_max_bytes=settings.transfer.chunk_max_bytes,
    )


def build_runbooks(settings: Settings) -> dict[str, Runbooks]:
    """Return what runs Automation runbooks, by subscription; of targets of one subscription the first by name counts."""
    targets = sorted(settings.targets.items(), reverse=True)
    return {target.subscription: AutomationRunbooks(ArmClients(_arm(target))) for _, target in targets}


def _arm(target: TargetSettings) -> ArmSettings:
    return ArmSettings(
        subscription_id=target.subscription,
        location=target.location,
        credential=_credential(target),
        endpoint=target.arm_endpoint,
        ca_file=_text(target.ca_file),
    )


def build_stores(target: TargetSettings) -> Stores:
    """Return a target's storage accounts and its key wrapper."""
    return Stores(
        log=BlobObjectStore(_account(target, target.log), Store.LOG),
        gateway=BlobObjectStore(_account(target, target.gateway), Store.GATEWAY),
        seeds=PageBlobSeeds(_account(target, target.seed)),
        keys=_keys(target),
    )


def build_points(target: TargetSettings) -> BlobRecoveryPoints:
    """Return what keeps a target's recovery points."""
    return BlobRecoveryPoints(
        PageBlobSeeds(_account(target, target.seed)), BlobObjectStore(_account(target, target.gateway), Store.GATEWAY)
    )


def _endpoint(site: SiteSettings) -> Endpoint:
    parts = urlsplit(site.vcenter)
    return Endpoint(
        host=parts.hostname or "",
        port=parts.port or 443,
        user=site.user.read(),
        ca_file=site.ca_file,
        timeout_s=_NETWORK_TIMEOUT_S,
    )


def _exports(site: SiteSettings, endpoint: Endpoint) -> TwoWayExports:
    if site.reader is Reader.NBD and site.nbd is not None:
        return PlainNbdExports({host: (address.host, address.port) for host, address in site.nbd.hosts.items()})
    assert site.vddk is not None, "SiteSettings refuses nbdkit-vddk without its table"
    work = Path(tempfile.mkdtemp(prefix="deltaferry-nbd-"))
    return VddkExports(endpoint, site.password.read, VddkExportSettings(site.vddk.libdir, work, site.vddk.nbdkit))


def _account(target: TargetSettings, account: AccountSettings) -> StorageAccount:
    credential = AccountKey(account.key.read) if account.key is not None else _credential(target)
    return StorageAccount(account.url, credential, ca_file=_text(account.ca_file), beat=beat_for_a_request)


def _keys(target: TargetSettings) -> KeyWrapper:
    if isinstance(target.keys, LocalFileKeys):
        return LocalKeyFile(target.keys.path())
    return VaultKey(target.keys.key_id, _credential(target), ca_file=_text(target.ca_file))


def _credential(target: TargetSettings) -> AzureCredential:
    chosen = target.credential
    if isinstance(chosen, DefaultCredential):
        return DefaultAzureCredential()
    if isinstance(chosen, ClientSecretCredential):
        return ServicePrincipal(
            chosen.tenant, chosen.client, chosen.secret.read, authority=chosen.authority, ca_file=_text(target.ca_file)
        )
    return StaticToken(chosen.token.read)


def _text(path: Path | None) -> str | None:
    return str(path) if path is not None else None
