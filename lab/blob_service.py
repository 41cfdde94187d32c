"""The lab's storage accounts: Azurite, and the front that mends what Azurite gets wrong, as two processes."""

import base64
import secrets
from collections.abc import Mapping
from pathlib import Path

from lab.certificates import Certificates
from lab.control_client import BlobControl
from lab.processes import ManagedProcess, ProcessSpec, Readiness, free_ports
from lab.tools import FRONT_DIRECTORY, azurite_command, node_executable


def new_account_key() -> str:
    """Return a storage account key: 64 random bytes in base64, as Azure's are."""
    return base64.b64encode(secrets.token_bytes(64)).decode()


class BlobService:
    """Azurite and its front. Restarted parts keep ports and data; Azurite's data are files in `directory`.

    `accounts` maps account names to keys. Its repr and its commands carry no key.
    """

    def __init__(self, directory: Path, log_directory: Path, certificates: Certificates, accounts: Mapping[str, str]) -> None:
        azurite_port, self.port, control_port = free_ports(3)
        token = secrets.token_urlsafe(24)
        environment = {"AZURITE_ACCOUNTS": ";".join(f"{name}:{key}" for name, key in accounts.items())}
        self.control = BlobControl(control_port, token)
        directory.mkdir(parents=True, exist_ok=True)
        self.azurite = ManagedProcess(
            ProcessSpec(
                name="azurite",
                command=(
                    *azurite_command(),
                    *("--blobHost", "127.0.0.1", "--blobPort", str(azurite_port), "--location", str(directory)),
                    *("--skipApiVersionCheck", "--disableTelemetry", "--disableProductStyleUrl", "--silent"),
                    *("--blobKeepAliveTimeout", "3600"),
                ),
                log_directory=log_directory,
                environment=environment,
                readiness=Readiness.PORTS,
                ports=(azurite_port,),
                working_directory=directory,
            )
        )
        self.front = ManagedProcess(
            ProcessSpec(
                name="front",
                command=(
                    *(node_executable(), str(FRONT_DIRECTORY / "front.mjs")),
                    *("--azurite-port", str(azurite_port), "--port", str(self.port), "--control-port", str(control_port)),
                    *("--certificate", str(certificates.certificate_file), "--key", str(certificates.key_file)),
                ),
                log_directory=log_directory,
                environment={**environment, "LAB_CONTROL_TOKEN": token},
                readiness=Readiness.JSON_LINE,
            )
        )

    def url(self, account: str) -> str:
        """Return an account's URL, path-style."""
        return f"https://127.0.0.1:{self.port}/{account}"

    def spawn(self) -> None:
        """Start both parts without waiting."""
        self.azurite.spawn()
        self.front.spawn()

    def await_ready(self) -> None:
        """Wait until both parts serve."""
        self.azurite.await_ready()
        self.front.await_ready()

    def stop(self) -> None:
        """Stop both parts; Azurite writes its metadata to disk."""
        self.front.stop()
        self.azurite.stop()

    def restart(self) -> None:
        """Stop and start both parts on the same ports with the same data."""
        self.stop()
        self.spawn()
        self.await_ready()
