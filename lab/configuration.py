"""Writes the `deltaferry.toml` of a lab. Secrets stay in the environment: the file holds references only."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from lab import settings as lab
from lab.settings import LabSettings

INSTALLATION = "lab"
ACCOUNTS = {"log": "dflog", "gateway": "dfgateway", "seed": "dfseed"}
"""The storage account of each store."""

VCENTER_USER = "LAB_VCENTER_USER"
VCENTER_PASSWORD = "LAB_VCENTER_PASSWORD"
ARM_TOKEN = "LAB_ARM_TOKEN"
KEY_FILE = "LAB_KEY_FILE"

_Toml = bool | int | str | Mapping[str, "_Toml"]


def account_key_variable(store: str) -> str:
    """Return the environment variable with a store's account key."""
    return f"LAB_{store.upper()}_KEY"


def account_resource_id(store: str) -> str:
    """Return the Azure resource id of a store's account."""
    group = f"/subscriptions/{lab.SUBSCRIPTION}/resourceGroups/{lab.RESOURCE_GROUP}"
    return f"{group}/providers/Microsoft.Storage/storageAccounts/{ACCOUNTS[store]}"


@dataclass(frozen=True, slots=True)
class Endpoints:
    """Where the lab's parts are."""

    temporal: str
    namespace: str
    vcenter: str
    nbd: Mapping[str, str]
    """`host:port` by the ESXi host's name."""
    arm: str
    accounts: Mapping[str, str]
    """URL by store: log, gateway, seed."""
    ca_file: Path


def configuration(endpoints: Endpoints, settings: LabSettings) -> str:
    """Return the text of the settings file."""
    ca_file = str(endpoints.ca_file)
    stores: dict[str, _Toml] = {
        store: {
            "url": endpoints.accounts[store],
            "account": account,
            "key": f"env:{account_key_variable(store)}",
            "ca_file": ca_file,
            "resource_id": account_resource_id(store),
        }
        for store, account in ACCOUNTS.items()
    }
    document: dict[str, _Toml] = {
        "installation": {"id": INSTALLATION},
        "temporal": {"address": endpoints.temporal, "namespace": endpoints.namespace},
        "sites": {
            lab.SITE: {
                "vcenter": endpoints.vcenter,
                "user": f"env:{VCENTER_USER}",
                "password": f"env:{VCENTER_PASSWORD}",
                "ca_file": ca_file,
                "time_zone": "UTC",
                "off_hours": settings.off_hours,
                "inventory_every": _duration(settings.inventory_every) if settings.inventory_every else "never",
                "audit_every": "never",
                "min_interval": _duration(settings.min_interval),
                "max_interval": _duration(settings.max_interval),
                "appliance": lab.APPLIANCE,
                "target": lab.TARGET,
                "reader": "nbd",
                "nbd": {"plaintext": True, "hosts": dict(endpoints.nbd)},
                "limits": {
                    "disks_per_appliance": settings.disks_per_appliance,
                    "disks_per_host": settings.disks_per_host,
                    "snapshots_per_datastore": settings.snapshots_per_datastore,
                },
                "scale_out": {appliance: {"blackout": ""} for appliance in settings.scale_out},
            }
        },
        "targets": {
            lab.TARGET: {
                "subscription": lab.SUBSCRIPTION,
                "resource_group": lab.RESOURCE_GROUP,
                "location": lab.LOCATION,
                "network": lab.NETWORK,
                "subnet": lab.SUBNET,
                "vm_size": "Standard_D2s_v5",
                "arm_endpoint": endpoints.arm,
                "ca_file": ca_file,
                "credential": {"kind": "token", "token": f"env:{ARM_TOKEN}"},
                "keys": {"kind": "local-file", "file": f"env:{KEY_FILE}"},
                **stores,
            }
        },
        "transfer": {
            "chunk_max": _duration(settings.chunk_max),
            "chunk_max_bytes": settings.chunk_max_bytes,
            "threads_per_disk": settings.threads_per_disk,
            "page_blob_rate_mib_s": settings.page_blob_rate_mib_s,
        },
        "logs": {"level": settings.log_level},
    }
    return "\n".join(_tables((), document)) + "\n"


def _tables(path: tuple[str, ...], table: Mapping[str, _Toml]) -> list[str]:
    values = [f"{_key(name)} = {_value(value)}" for name, value in table.items() if not isinstance(value, Mapping)]
    lines = [f"[{'.'.join(map(_key, path))}]", *values, ""] if path and values else values
    for name, value in table.items():
        if isinstance(value, Mapping):
            lines += _tables((*path, name), value)
    return lines


def _key(name: str) -> str:
    return name if name.replace("-", "").replace("_", "").isalnum() else json.dumps(name)


def _value(value: _Toml) -> str:
    # JSON's strings, numbers and booleans are TOML's as well, as long as nothing beyond U+FFFF is escaped.
    return json.dumps(value, ensure_ascii=False)


def _duration(value: timedelta) -> str:
    seconds = value.total_seconds()
    return f"PT{seconds:.3f}".rstrip("0").rstrip(".") + "S"
