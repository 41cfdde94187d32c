"""The source VM's power, and the guard that keeps two masters from writing."""

import time
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta

from temporalio import activity

from activities.adapters import Site
from activities.clean_stops import note_power_off
from activities.failures import translated
from activities.progress import Heartbeats
from deltaferry.model.errors import DeltaferryError, ErrorKind
from deltaferry.model.replication import ReplicationRef
from deltaferry.model.vm import PowerState
from deltaferry.ports.access import Beat
from deltaferry.ports.hypervisor import Hypervisor
from workflows.messages.step import GuardInput, OnReplication, ShutDownInput, ShutDownResult, SourceStatus, UnguardInput

_POLL_S = 0.5


class SourcePower:
    """Shuts the source down and starts it again."""

    def __init__(self, sites: Mapping[str, Site]) -> None:
        self._sites = sites

    @activity.defn
    @translated
    def read_power(self, request: OnReplication) -> SourceStatus:
        """Return whether the source runs, and which NICs connect when it is powered on."""
        ref = request.replication.ref
        vm = self._sites[ref.site].hypervisor.read_vm(ref.instance_uuid)
        nics = tuple(nic.key for nic in vm.nics if nic.start_connected)
        return SourceStatus(powered_on=vm.power is PowerState.ON, nics_at_power_on=nics)

    @activity.defn
    @translated
    def shut_down_source(self, request: ShutDownInput) -> ShutDownResult:
        """Ask the guest to shut down and wait until the VM is off; power it off hard after the limit, if that is allowed.

        The limit runs from the first attempt, however often the worker dies. Raises GUEST_SHUTDOWN_TIMED_OUT,
        GUEST_TOOLS_UNAVAILABLE.
        """
        beats = Heartbeats("waiting for the guest to shut down")
        ref = request.replication.ref
        hypervisor = self._sites[ref.site].hypervisor
        if hypervisor.power_state(ref.instance_uuid) is PowerState.OFF:
            return ShutDownResult(forced=False)
        try:
            hypervisor.shut_down_guest(ref.instance_uuid)
        except DeltaferryError as error:
            if error.kind is not ErrorKind.GUEST_TOOLS_UNAVAILABLE or not request.allow_power_off:
                raise
            return self._power_off(ref, beats.beat)
        deadline = activity.info().scheduled_time + request.timeout
        if self._wait_until_off(hypervisor, ref.instance_uuid, deadline, beats.beat):
            return ShutDownResult(forced=False)
        if not request.allow_power_off:
            minutes = request.timeout / timedelta(minutes=1)
            raise DeltaferryError(ErrorKind.GUEST_SHUTDOWN_TIMED_OUT, f"The guest was still running after {minutes:g} min.")
        return self._power_off(ref, beats.beat)

    @activity.defn
    @translated
    def guard_source(self, request: GuardInput) -> None:
        """Write on the VM what happened to it, and have its NICs stay disconnected at power-on."""
        ref = request.replication.ref
        hypervisor = self._sites[ref.site].hypervisor
        hypervisor.annotate(ref.instance_uuid, request.note)
        if request.disconnect_nics:
            hypervisor.set_nics_at_power_on(ref.instance_uuid, dict.fromkeys(request.disconnect_nics, False))

    @activity.defn
    @translated
    def unguard_source(self, request: UnguardInput) -> None:
        """Have the NICs connect at power-on again that a guard disconnected; then power the source on, if asked."""
        beats = Heartbeats("powering the source on")
        ref = request.replication.ref
        hypervisor = self._sites[ref.site].hypervisor
        if request.reconnect_nics:
            hypervisor.set_nics_at_power_on(ref.instance_uuid, dict.fromkeys(request.reconnect_nics, True))
        if request.power_on:
            hypervisor.power_on(ref.instance_uuid, beats.beat)

    def _power_off(self, ref: ReplicationRef, beat: Beat) -> ShutDownResult:
        site = self._sites[ref.site]
        note_power_off(site, ref)
        site.hypervisor.power_off(ref.instance_uuid, beat)
        return ShutDownResult(forced=True)

    def _wait_until_off(self, hypervisor: Hypervisor, instance_uuid: str, deadline: datetime, beat: Beat) -> bool:
        while hypervisor.power_state(instance_uuid) is not PowerState.OFF:
            if datetime.now(UTC) >= deadline:
                return False
            beat()
            time.sleep(_POLL_S)
        return True
