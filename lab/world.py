"""The lab as a whole: every part in a process of its own, on loopback, in a folder of its own, gone when it ends."""

import secrets
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import cast

from pydantic import TypeAdapter

from lab import settings as lab
from lab.arm.control import ArmControl
from lab.arm.errors import Json
from lab.arm.service import ArmService, ImportAccount
from lab.blob_service import BlobService, new_account_key
from lab.certificates import make_certificates, write_private
from lab.chaos_proxy_control import ChaosProxyService, ProxyControl, routes_to
from lab.configuration import (
    ACCOUNTS,
    ARM_TOKEN,
    KEY_FILE,
    VCENTER_PASSWORD,
    VCENTER_USER,
    Endpoints,
    account_key_variable,
    account_resource_id,
    configuration,
)
from lab.control_client import BlobControl
from lab.guest_writer import GuestSettings
from lab.processes import LabError, ManagedProcess, ProcessSpec, Readiness, python_command
from lab.settings import LabSettings
from lab.temporal_server import NAMESPACE, TemporalServer
from lab.tools import ensure_azurite
from lab.vcenter.control import VcenterControl
from lab.vcenter.inventory_file import InventorySpec

_CONTROL_TOKEN = "LAB_CONTROL_TOKEN"
_WORKER_STOPS_WITHIN_S = 20.0


class World:
    """A running lab. Entering starts it and returns once every part serves; leaving stops all of it.

    After entering, `config_file` is the settings file for workers and command line, and `environment` holds the
    secrets that it refers to: add it to the environment of every process that reads the file.
    Raises LabError when a part does not start. Not safe for use by several threads at once.
    """

    def __init__(self, directory: Path, settings: LabSettings | None = None) -> None:
        self.directory = directory.absolute()
        self.settings = settings or LabSettings()
        self.config_file = self.directory / "deltaferry.toml"
        self._logs = self.directory / "logs"
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._logs.mkdir(exist_ok=True)
        self.certificates = make_certificates(self.directory / "certificates")
        self._control_token = secrets.token_urlsafe(24)
        self._keys = {account: new_account_key() for account in ACCOUNTS.values()}
        self.temporal = TemporalServer(
            self.directory / "temporal", self._logs, self.settings.search_attributes, with_ui=self.settings.with_ui
        )
        self.blobs = BlobService(self.directory / "stores", self._logs, self.certificates, self._keys)
        self.arm = self._azure()
        self.environment = self._secrets()
        self.vcenter = ManagedProcess(self._vcenter_spec())
        self._chaos = self._chaos_proxy()
        self._children: list[ManagedProcess] = []

    def __repr__(self) -> str:
        """Show the folder only: everything else is, or holds, a secret."""
        return f"<World {self.directory}>"

    def __enter__(self) -> "World":
        ensure_azurite()
        try:
            self.temporal.spawn()
            self.blobs.spawn()
            self.arm.spawn()
            self._write_inventory()
            self.vcenter.spawn()
            self.temporal.await_ready()
            self.blobs.await_ready()
            self.arm.await_ready()
            self.vcenter.await_ready()
            between = self.endpoints
            if self._chaos is not None:
                self._chaos.start(routes_to(between))
                between = self._chaos.between(between)
            self.config_file.write_text(configuration(between, self.settings), encoding="utf-8")
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()

    def stop(self) -> None:
        """Stop workers and guests, then all parts; the folder stays. No-op for what does not run."""
        for child in self._children:
            child.ask_to_stop()
        for child in self._children:
            child.stop(_WORKER_STOPS_WITHIN_S)
        between = (self._chaos.process,) if self._chaos is not None else ()
        parts = (*between, self.vcenter, self.arm.process, self.blobs.front, self.blobs.azurite, self.temporal.process)
        for part in parts:
            part.ask_to_stop()
        for part in parts:
            part.stop()

    @property
    def endpoints(self) -> Endpoints:
        """Where the parts are themselves, without a chaos proxy between. Raises LabError before they are ready."""
        nbd = cast("Mapping[str, int]", self._vcenter_ready("nbd"))
        return Endpoints(
            temporal=self.temporal.address,
            namespace=NAMESPACE,
            vcenter=f"https://127.0.0.1:{self._vcenter_ready('port')}",
            nbd={host: f"127.0.0.1:{port}" for host, port in nbd.items()},
            arm=self.arm.url,
            accounts={store: self.blobs.url(account) for store, account in ACCOUNTS.items()},
            ca_file=self.certificates.ca_file,
        )

    @property
    def blob_control(self) -> BlobControl:
        """Faults and counts of the storage accounts."""
        return self.blobs.control

    @property
    def vcenter_control(self) -> VcenterControl:
        """State, faults, times and bad luck of the lab's vCenter."""
        return VcenterControl(f"http://127.0.0.1:{self._vcenter_ready('control_port')}", self._control_token)

    @property
    def arm_control(self) -> ArmControl:
        """Faults, times and insight of the lab's Azure."""
        return self.arm.control

    @property
    def chaos_control(self) -> ProxyControl:
        """Faults on the way between workers and parts. Raises LabError in a lab without a chaos proxy."""
        if self._chaos is None:
            raise LabError("This lab has no chaos proxy: give its settings a seed.")
        return self._chaos.control

    def account_key(self, store: str) -> str:
        """Return the account key of a store: `log`, `gateway` or `seed`."""
        return self._keys[ACCOUNTS[store]]

    def worker(
        self, role: str, name: str | None = None, variables: Mapping[str, str] | None = None, *, appliance: str | None = None
    ) -> ManagedProcess:
        """Start a worker (`control`, `source` or `target`) as a process; it is stopped with the lab.

        `variables` are added to its environment: a kill point, for example. `appliance` names the scale-out appliance that a
        source worker is.
        """
        of_appliance = () if appliance is None else ("--appliance", appliance)
        return self._start(
            ProcessSpec(
                name=name or f"worker-{role}",
                command=python_command("-m", "console.main", "worker", role, "--config", str(self.config_file), *of_appliance),
                log_directory=self._logs,
                environment={**self.environment, **(variables or {})},
            )
        )

    def guest(self, settings: GuestSettings, name: str = "guest") -> ManagedProcess:
        """Start a guest writer as a process; it ends by itself when its VM powers off, and is stopped with the lab."""
        file = self.directory / f"{name}.json"
        settings.save(file)
        return self._start(
            ProcessSpec(
                name=name,
                command=python_command("-m", "lab.guest_writer", str(file)),
                log_directory=self._logs,
                environment={},
                readiness=Readiness.JSON_LINE,
            )
        )

    def _start(self, spec: ProcessSpec) -> ManagedProcess:
        child = ManagedProcess(spec)
        self._children.append(child)
        child.start()
        return child

    def _secrets(self) -> dict[str, str]:
        key_file = self.directory / "wrapping.key"
        if not key_file.exists():
            write_private(key_file, secrets.token_bytes(32))
        return {
            VCENTER_USER: lab.VCENTER_USER,
            VCENTER_PASSWORD: secrets.token_urlsafe(18),
            ARM_TOKEN: self.arm.token,
            KEY_FILE: str(key_file),
            **{account_key_variable(store): self._keys[account] for store, account in ACCOUNTS.items()},
        }

    def _chaos_proxy(self) -> ChaosProxyService | None:
        seed = self.settings.chaos_seed
        return None if seed is None else ChaosProxyService(self.directory, self._logs, self.certificates, seed)

    def _vcenter_spec(self) -> ProcessSpec:
        return ProcessSpec(
            name="vcenter",
            command=python_command(
                *("-m", "lab.vcenter", "--directory", str(self.directory / "vcenter"), "--inventory", str(self._inventory_file)),
                *("--certificate", str(self.certificates.certificate_file), "--key", str(self.certificates.key_file)),
            ),
            log_directory=self._logs,
            environment={_CONTROL_TOKEN: self._control_token},
            readiness=Readiness.JSON_LINE,
        )

    @property
    def _inventory_file(self) -> Path:
        return self.directory / "inventory.json"

    def _write_inventory(self) -> None:
        images = self.directory / "images"
        images.mkdir(exist_ok=True)
        times = {name: value for name, value in asdict(self.settings.times).items() if not name.startswith("azure_")}
        inventory = InventorySpec(
            users={lab.VCENTER_USER: self.environment[VCENTER_PASSWORD]},
            hosts=self.settings.hosts,
            datastores=lab.DATASTORES,
            vms=self.settings.vms(images),
            networks=lab.NETWORKS,
            times=times,
        )
        write_private(self._inventory_file, TypeAdapter(InventorySpec).dump_json(inventory))

    def _azure(self) -> ArmService:
        accounts = {
            account_resource_id(store): ImportAccount(self.blobs.url(account), account, self._keys[account])
            for store, account in ACCOUNTS.items()
        }
        times = self.settings.times
        return ArmService(
            self.directory / "azure",
            self.certificates,
            accounts,
            seed=_azure_seed(),
            retry_after_s=times.azure_retry_after_s,
            operation_s=times.azure_operation_s,
            guest_bytes_per_second=self.settings.azure_guest_bytes_per_second,
        )

    def _vcenter_ready(self, name: str) -> object:
        if name not in self.vcenter.ready:
            raise LabError("vCenter has not said yet where it serves.")
        return self.vcenter.ready[name]


def _azure_seed() -> Json:
    return {
        "subscription_id": lab.SUBSCRIPTION,
        "locations": [lab.LOCATION],
        "resource_groups": [{"name": lab.RESOURCE_GROUP, "location": lab.LOCATION}],
        "virtual_networks": [
            {
                "resource_group": lab.RESOURCE_GROUP,
                "name": lab.NETWORK,
                "location": lab.LOCATION,
                "address_prefixes": ["10.0.0.0/16"],
                "subnets": [
                    {"name": lab.SUBNET, "address_prefix": "10.0.0.0/24"},
                    {"name": "isolated", "address_prefix": "10.0.1.0/24"},
                ],
            },
            {
                "resource_group": lab.RESOURCE_GROUP,
                "name": lab.ISOLATED_NETWORK,
                "location": lab.LOCATION,
                "address_prefixes": ["10.1.0.0/16"],
                "subnets": [{"name": lab.SUBNET, "address_prefix": "10.1.0.0/24"}],
            },
        ],
    }
