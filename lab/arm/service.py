"""Starts the lab's Azure Resource Manager as a child process, for the lab and for tests."""

import json
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from lab.arm.__main__ import CONTROL_TOKEN_VARIABLE, TOKEN_VARIABLE
from lab.arm.control import ArmControl
from lab.arm.errors import Json
from lab.certificates import Certificates, write_private
from lab.processes import ManagedProcess, ProcessSpec, Readiness, python_command


@dataclass(frozen=True, slots=True)
class ImportAccount:
    """A storage account whose page blobs can be imported: its blob endpoint and shared key."""

    url: str
    name: str
    key: str = field(repr=False)


class ArmService:
    """The endpoint in a process of its own; a restart forgets all resources and takes other ports.

    `accounts` maps ARM ids to accounts; `seed` has the shape of `lab.arm.assembly.DEFAULT_SEED`. `token` is the bearer
    token that clients present. With `guest_bytes_per_second` the guest of every running VM writes to its disks. The child's command carries neither token nor key.
    """

    def __init__(
        self,
        directory: Path,
        certificates: Certificates,
        accounts: Mapping[str, ImportAccount],
        *,
        seed: Json | None = None,
        retry_after_s: float = 1.0,
        operation_s: float = 0.0,
        throttling_scale: float = 1.0,
        guest_bytes_per_second: int = 0,
    ) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        accounts_file = directory / "accounts.json"
        listed = {key: {"url": one.url, "name": one.name, "key": one.key} for key, one in accounts.items()}
        write_private(accounts_file, json.dumps(listed).encode())
        command = [
            *("-m", "lab.arm", "--directory", str(directory)),
            *("--certificate", str(certificates.certificate_file), "--key", str(certificates.key_file)),
            *("--ca", str(certificates.ca_file), "--accounts", str(accounts_file)),
            *("--retry-after-s", str(retry_after_s), "--operation-s", str(operation_s)),
            *("--throttling-scale", str(throttling_scale), "--guest-bytes-per-second", str(guest_bytes_per_second)),
        ]
        if seed is not None:
            seed_file = directory / "seed.json"
            seed_file.write_text(json.dumps(seed), encoding="utf-8")
            command += ["--seed", str(seed_file)]
        self.token = secrets.token_urlsafe(24)
        self._control_token = secrets.token_urlsafe(24)
        self.process = ManagedProcess(
            ProcessSpec(
                name="arm",
                command=python_command(*command),
                log_directory=directory,
                environment={TOKEN_VARIABLE: self.token, CONTROL_TOKEN_VARIABLE: self._control_token},
                readiness=Readiness.JSON_LINE,
                working_directory=Path(__file__).resolve().parents[2],
            )
        )

    @property
    def url(self) -> str:
        """The management endpoint; known once the process is ready."""
        return f"https://127.0.0.1:{self.process.ready['port']}"

    @property
    def control(self) -> ArmControl:
        """The control endpoint; known once the process is ready."""
        return ArmControl(f"http://127.0.0.1:{self.process.ready['control_port']}", self._control_token)

    def spawn(self) -> None:
        """Start without waiting."""
        self.process.spawn()

    def await_ready(self) -> None:
        """Wait until it serves."""
        self.process.await_ready()

    def stop(self) -> None:
        """Stop it."""
        self.process.stop()
