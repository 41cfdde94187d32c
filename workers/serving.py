"""The three worker roles as processes: what each one serves, and how it starts and ends."""

import asyncio
import logging
import os
import signal
import socket
import zoneinfo
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from typing import Any

from temporalio import activity, workflow
from temporalio.client import Client
from temporalio.common import VersioningBehavior, WorkerDeploymentVersion
from temporalio.runtime import PrometheusConfig, Runtime, TelemetryConfig
from temporalio.service import RPCError
from temporalio.worker import Worker, WorkerDeploymentConfig

from activities.apply import Apply
from activities.archive import Archive
from activities.audit import AuditSource, AuditTarget
from activities.audit_repairs import AuditSourceRepairs, AuditTargetRepairs
from activities.blackouts import Blackouts
from activities.cleanup import SourceCleanup, TargetCleanup
from activities.disk_changes import DiskChanges
from activities.failback_elsewhere import FailbackElsewhere
from activities.failback_reading import FailbackReading
from activities.failback_site import FailbackSite
from activities.failback_target import FailbackTarget
from activities.failback_verification import FailbackVerification
from activities.failback_writing import FailbackWriting
from activities.holders import Holders, TemporalHolders
from activities.inventory import Inventory
from activities.notices import Notices
from activities.off_hours import OffHours
from activities.plan_steps import PlanRunbooks, PlanScripts, PlanTargets, PlanWebhooks
from activities.policies import Policies
from activities.prerequisites import SourceChecks, TargetChecks
from activities.recovery_points import RecoveryPointSteps
from activities.resync import ResyncSource, ResyncTarget
from activities.settling import Settling
from activities.shared_snapshots import SharedSnapshots
from activities.site import SiteActivities
from activities.site_workflows import SiteWorkflows
from activities.snapshots import Snapshots
from activities.source_power import SourcePower
from activities.target_vm import TargetVmActivities
from activities.tracking import Tracking
from activities.transfer import Transfer
from activities.verification import Verification
from deltaferry.blocks.throttle import Budget
from deltaferry.model.errors import DeltaferryError, ErrorKind
from workers.appliance_settings import ArbiterSettings, throttled
from workers.schedules import remove_others, set_up_schedules, site_schedules
from workers.settings import Settings
from workers.wiring import build_runbooks, build_site, build_target, site_profile
from workflows import names
from workflows.plugin import plugin
from workflows.register import WORKFLOWS

_LOG = logging.getLogger(__name__)

_VSPHERE_THREADS = 24
_DISKS_PER_APPLIANCE = 52
"""The physical backstop of an appliance (spec §3); the arbiter grants less."""
_TARGET_THREADS = 24
_PLAN_THREADS = 8
_GRACE = timedelta(seconds=20)
_BEAT_AT_MOST_EVERY = timedelta(seconds=5)
_CACHED_AT_LEAST = 1000
"""The SDK's own number."""
_JOBS = 200
"""Runs that are cached beside the replications: arbiters, groups, plans, and whatever is under way."""


class Role(StrEnum):
    """What a worker process is for."""

    CONTROL = "control"
    SOURCE = "source"
    TARGET = "target"


@dataclass(frozen=True, slots=True)
class Serving:
    """One task queue that a process serves."""

    queue: str
    activities: Sequence[Callable[..., Any]]
    threads: int
    workflows: Sequence[type] = ()
    cached_workflows: int = _CACHED_AT_LEAST
    """How many runs stay in memory: one that was left out is read from its whole history again when it wakes up."""


def control_queues(settings: Settings, client: Client) -> list[Serving]:
    """Return what a control worker serves: all workflows, and light activities."""
    of_site = SiteWorkflows(client)
    site = SiteActivities({name: site_profile(settings, name) for name in settings.sites})
    told, ca_file = settings.webhooks.rpo, str(settings.webhooks.ca_file) if settings.webhooks.ca_file else None
    light: list[Callable[..., Any]] = [
        site.describe_site,
        OffHours().next_off_hours,
        Blackouts().list_blackouts,
        of_site.list_holders,
        of_site.live_appliances,
        Policies(client).find_policy,
        PlanTargets({name: target.subscription for name, target in settings.targets.items()}).target_of_runbook,
        PlanWebhooks(ca_file).call_webhook,
        Notices(told.read if told is not None else None, ca_file).announce_rpo,
    ]
    replications = sum(site.limits.replications_per_site for site in settings.sites.values())
    return [Serving(names.CONTROL_QUEUE, light, 8, WORKFLOWS, max(_CACHED_AT_LEAST, replications + _JOBS))]


def plan_queues(settings: Settings) -> list[Serving]:
    """Return what any worker serves whose settings name it as one that runs recovery plans' scripts."""
    named = settings.plan_worker
    if named is None:
        return []
    scripts = PlanScripts(named.name, [str(script) for script in named.scripts])
    return [Serving(names.plan_queue(named.name), [scripts.run_script], _PLAN_THREADS)]


def source_queues(
    settings: Settings,
    closers: list[Callable[[], None]],
    holders: Holders,
    budgets: Mapping[str, Budget],
    only_transfer: str | None = None,
) -> list[Serving]:
    """Return what a source worker serves: each site's vSphere calls, and its appliance's transfers within the site's budget.

    With `only_transfer` (the name of a scale-out appliance) nothing but that appliance's transfers.
    """
    served = settings.sites if only_transfer is None else [_site_of(settings, only_transfer)]
    sites = {}
    for name in served:
        sites[name], close = build_site(settings, name, budgets[name])
        closers.append(close)
    resync = ResyncSource(sites)
    writing = FailbackWriting(sites)
    reading: list[Callable[..., Any]] = [
        Transfer(sites).transfer,
        resync.compare_source,
        writing.compare_site,
        writing.write_back,
    ]
    if only_transfer is not None:
        return [Serving(names.transfer_queue(only_transfer), reading, _DISKS_PER_APPLIANCE)]
    checks, snapshots, power, cleanup = SourceChecks(sites), Snapshots(sites), SourcePower(sites), SourceCleanup(sites)
    failback, elsewhere = FailbackSite(sites), FailbackElsewhere(sites)
    steps: list[Callable[..., Any]] = [
        checks.check_source,
        snapshots.prepare_source,
        snapshots.begin_cycle,
        resync.begin_resync,
        snapshots.release_snapshot,
        snapshots.look_for_room,
        snapshots.snapshots_left,
        SharedSnapshots(sites).take_together,
        Tracking(sites).reset_tracking,
        DiskChanges(sites).read_disks,
        Inventory(sites).take_inventory,
        AuditSource(sites).survey_source,
        AuditSourceRepairs(sites, holders).repair_source,
        power.read_power,
        power.shut_down_source,
        power.guard_source,
        power.unguard_source,
        cleanup.clean_source,
        failback.prepare_failback,
        failback.find_losses,
        failback.release_failback,
        elsewhere.make_vm,
        elsewhere.delete_made_vm,
        elsewhere.keep_made_vm,
        failback.find_homecoming,
    ]
    queues = [Serving(names.vsphere_queue(name), steps, _VSPHERE_THREADS) for name in sites]
    appliances = dict.fromkeys(site.appliance for site in settings.sites.values())
    queues += [Serving(names.transfer_queue(name), reading, _DISKS_PER_APPLIANCE) for name in appliances]
    return queues


def _site_of(settings: Settings, appliance: str) -> str:
    """Return the site of a scale-out appliance. Raises BAD_CONFIGURATION with the names of those there are."""
    known = {appliance: name for name, site in settings.sites.items() for appliance in site.scale_out}
    if appliance not in known:
        raise DeltaferryError(
            ErrorKind.BAD_CONFIGURATION,
            f"No site has a scale-out appliance {appliance!r}; those there are: {', '.join(sorted(known)) or 'none'}. "
            f"Add a table [sites.<site>.scale_out.{appliance}], or correct --appliance.",
        )
    return known[appliance]


def target_queues(settings: Settings, client: Client, holders: Holders) -> list[Serving]:
    """Return what a target worker serves: what is done beside the stores, and Azure Resource Manager."""
    targets = {name: build_target(settings, name) for name in settings.targets}
    apply, verification, settling, cleanup, archive = (
        Apply(targets),
        Verification(targets),
        Settling(targets),
        TargetCleanup(targets),
        Archive(targets, client),
    )
    checks, vm, resync = TargetChecks(targets), TargetVmActivities(targets), ResyncTarget(targets)
    points = RecoveryPointSteps(targets)
    audit = AuditTarget(targets, holders, {name: site.audit_grace for name, site in settings.sites.items()})
    back, reading_back, checks_back = FailbackTarget(targets), FailbackReading(targets), FailbackVerification(targets)
    beside_stores: list[Callable[..., Any]] = [
        apply.prepare_target,
        apply.apply,
        resync.check_seed,
        resync.plan_resync,
        verification.verify_chunks,
        verification.seal_cycle,
        settling.settle_cycle,
        settling.discard_logs,
        points.list_points,
        points.prune_points,
        points.pin_point,
        points.unpin_point,
        cleanup.clean_target,
        archive.archive_history,
        archive.read_commit_records,
        reading_back.hash_snapshots,
        reading_back.plan_changes,
        reading_back.send_back,
        checks_back.verify_back,
        checks_back.forget_site,
        checks_back.discard_back,
        audit.judge_site,
        AuditTargetRepairs(targets, holders).repair_target,
    ]
    resource_manager: list[Callable[..., Any]] = [
        checks.check_target,
        vm.import_disks,
        vm.import_copies,
        vm.create_target_vm,
        vm.delete_target,
        points.copy_point,
        points.delete_copies,
        back.survey_failed_over,
        back.snapshot_target,
        back.drop_snapshots,
        back.stop_target,
        back.start_target,
        audit.survey_target,
        PlanRunbooks(build_runbooks(settings)).run_runbook,
    ]
    queues = []
    for name in targets:
        queues.append(Serving(names.apply_queue(name), beside_stores, _TARGET_THREADS))
        queues.append(Serving(names.azure_queue(name), resource_manager, _TARGET_THREADS))
    return queues


async def connect(settings: Settings) -> Client:
    """Connect to Temporal. Raises BAD_CONFIGURATION, saying where it was looked for, if nothing answers."""
    config = settings.temporal.connect_config()
    runtime: Runtime | None = None
    if settings.metrics.prometheus is not None:
        telemetry = TelemetryConfig(
            metrics=PrometheusConfig(bind_address=str(settings.metrics.prometheus), durations_as_seconds=True)
        )
        runtime = Runtime(telemetry=telemetry)
    try:
        return await Client.connect(**config, plugins=[plugin()], runtime=runtime)
    except (RuntimeError, RPCError) as error:
        raise DeltaferryError(
            ErrorKind.BAD_CONFIGURATION,
            f"Temporal does not answer at {config.get('target_host')}: start it, or correct [temporal] or the Temporal CLI's configuration.",
        ) from error


async def serve(
    settings: Settings,
    role: Role,
    *,
    appliance: str | None = None,
    build_id: str | None = None,
    ready: Callable[[], None] = lambda: None,
) -> None:
    """Serve a role's queues until SIGTERM or SIGINT, then let running steps end within the grace time."""
    # The time-zone rules of the pinned tzdata package count, not those of the machine: the same on every worker.
    zoneinfo.reset_tzpath(to=())
    workflow.logger.workflow_info_on_message = False
    activity.logger.activity_info_on_message = False
    client = await connect(settings)
    closers: list[Callable[[], None]] = []
    budgets: dict[str, Budget] = {}
    holders = TemporalHolders(client, asyncio.get_running_loop())
    match role:
        case Role.CONTROL:
            queues = control_queues(settings, client)
        case Role.SOURCE:
            budgets = {name: Budget() for name in settings.sites}
            closers.extend(budget.close for budget in budgets.values())
            queues = source_queues(settings, closers, holders, budgets, appliance)
        case Role.TARGET:
            queues = target_queues(settings, client, holders)
    queues += plan_queues(settings)
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    try:
        async with AsyncExitStack() as running:
            profiles = {name: site_profile(settings, name) for name in budgets}
            await running.enter_async_context(throttled(profiles, budgets, lambda site: ArbiterSettings(client, site)))
            for serving in queues:
                await running.enter_async_context(_worker(client, role, serving, build_id))
                _LOG.info("serving", extra={"queue": serving.queue, "role": role.value})
            if role is Role.CONTROL:
                await set_up_schedules(client, settings.installation.id, site_schedules(settings))
                await remove_others(client, settings.installation.id, site_schedules(settings))
            ready()
            await stop.wait()
            _LOG.info("stopping", extra={"role": role.value})
    finally:
        for close in closers:
            close()


def _worker(client: Client, role: Role, serving: Serving, build_id: str | None) -> Worker:
    deployment = None
    if build_id is not None:
        deployment = WorkerDeploymentConfig(
            version=WorkerDeploymentVersion(f"deltaferry-{role.value}", build_id),
            use_worker_versioning=True,
            default_versioning_behavior=VersioningBehavior.PINNED,
        )
    return Worker(
        client,
        task_queue=serving.queue,
        workflows=list(serving.workflows),
        max_cached_workflows=serving.cached_workflows,
        activities=list(serving.activities),
        activity_executor=ThreadPoolExecutor(serving.threads, thread_name_prefix=serving.queue),
        max_concurrent_activities=serving.threads,
        graceful_shutdown_timeout=_GRACE,
        max_heartbeat_throttle_interval=_BEAT_AT_MOST_EVERY,
        default_heartbeat_throttle_interval=_BEAT_AT_MOST_EVERY,
        identity=f"{role.value}@{socket.gethostname()}:{os.getpid()}",
        deployment_config=deployment,
    )
