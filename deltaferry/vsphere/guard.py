"""Guarding a migrated source: what people read on it, and whether its network adapters come up at power-on."""

from collections.abc import Mapping
from typing import Any

from deltaferry.vsphere.devices import ethernet_cards
from deltaferry.vsphere.locating import locate
from deltaferry.vsphere.properties import ObjectProperties
from deltaferry.vsphere.reconfiguring import reconfigure
from deltaferry.vsphere.session import Session
from deltaferry.vsphere.tasks import no_beat
from deltaferry.vsphere.vocabulary import vim

_Spec = vim.vm.device.VirtualDeviceSpec


def annotate(session: Session, instance_uuid: str, line: str) -> None:
    """Add a line to the VM's annotation, unless it has that line."""

    def decide(row: ObjectProperties) -> Any | None:
        present = row.get("config.annotation") or ""
        if line in present.splitlines():
            return None
        return vim.vm.ConfigSpec(annotation=f"{present.rstrip()}\n{line}" if present.strip() else line)

    reconfigure(session, locate(session, instance_uuid), ["config.annotation"], decide, no_beat)


def set_nics_at_power_on(session: Session, instance_uuid: str, connected: Mapping[int, bool]) -> None:
    """Set, by NIC key, whether each NIC connects at power-on; a NIC that the VM no longer has is left out."""

    def decide(row: ObjectProperties) -> Any | None:
        cards = ethernet_cards(row.get("config.hardware.device") or ())
        changes = [
            _Spec(operation=_Spec.Operation.edit, device=_connecting(card, connected[card.key]))
            for card in cards
            if card.key in connected and _connects(card) != connected[card.key]
        ]
        return vim.vm.ConfigSpec(deviceChange=changes) if changes else None

    reconfigure(session, locate(session, instance_uuid), ["config.hardware.device"], decide, no_beat)


def _connects(card: Any) -> bool:
    return bool(card.connectable and card.connectable.startConnected)


def _connecting(card: Any, start_connected: bool) -> Any:
    if card.connectable is None:
        card.connectable = vim.vm.device.VirtualDevice.ConnectInfo(allowGuestControl=True, connected=start_connected)
    card.connectable.startConnected = start_connected
    return card
