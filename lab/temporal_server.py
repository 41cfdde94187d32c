"""The lab's Temporal: `temporal server start-dev`, with its database in the lab's folder."""

import json
import os
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path

from lab.processes import LabError, ManagedProcess, ProcessSpec, Readiness, free_ports
from lab.tools import temporal_executable

NAMESPACE = "default"
"""The namespace that the development server always makes."""


class TemporalServer:
    """Server and UI on fixed ports of their own; the database is in `directory`.

    `search_attributes` maps names to types such as `Keyword`.
    """

    def __init__(self, directory: Path, log_directory: Path, search_attributes: Mapping[str, str], *, with_ui: bool) -> None:
        port, http_port, metrics_port, ui_port = free_ports(4)
        self.address = f"127.0.0.1:{port}"
        self.ui_url = f"http://127.0.0.1:{ui_port}" if with_ui else None
        directory.mkdir(parents=True, exist_ok=True)
        self._database = directory / "temporal.db"
        self._search_attributes = frozenset(search_attributes)
        # The CLI must not read the user's own profile, which may name another server.
        self._environment = {name: str(directory / "no-such-file") for name in ("TEMPORAL_ENV_FILE", "TEMPORAL_CONFIG_FILE")}
        attributes = [f"--search-attribute={name}={kind}" for name, kind in search_attributes.items()]
        self.process = ManagedProcess(
            ProcessSpec(
                name="temporal",
                command=(
                    *(temporal_executable(), "server", "start-dev", "--ip", "127.0.0.1", "--port", str(port)),
                    *("--http-port", str(http_port), "--metrics-port", str(metrics_port)),
                    *(("--ui-port", str(ui_port)) if with_ui else ("--headless",)),
                    *("--db-filename", str(self._database), "--log-level", "warn"),
                    *attributes,
                ),
                log_directory=log_directory,
                environment=self._environment,
                readiness=Readiness.PORTS,
                ports=(port, ui_port) if with_ui else (port,),
            )
        )

    def spawn(self) -> None:
        """Start the server without waiting."""
        self.process.spawn()

    def await_ready(self) -> None:
        """Wait until the server answers and knows the search attributes. Raises LabError when it takes too long.

        Its port is open before its namespace can be used.
        """
        self.process.await_ready()
        deadline = time.monotonic() + self.process.spec.ready_within_s
        while not self._knows_search_attributes():
            if time.monotonic() > deadline or not self.process.running:
                raise LabError(f"The Temporal server does not answer; its log is {self.process.log_file}.")

    def restart(self) -> None:
        """Stop and start the server on the same ports with the same database."""
        self.process.stop()
        self.spawn()
        self.await_ready()

    def lose_everything(self) -> None:
        """Start the server again with an empty database, as after a disaster."""
        self.process.stop()
        for file in self._database.parent.glob(f"{self._database.name}*"):
            file.unlink()
        self.spawn()
        self.await_ready()

    def _knows_search_attributes(self) -> bool:
        command = (
            temporal_executable(),
            "operator",
            "search-attribute",
            "list",
            "--address",
            self.address,
            "-n",
            NAMESPACE,
            "-o",
            "json",
        )
        asked = subprocess.run(
            command,
            env={**os.environ, **self._environment},
            capture_output=True,
            text=True,
            check=False,
            stdin=subprocess.DEVNULL,
        )
        return asked.returncode == 0 and self._search_attributes <= _attribute_names(json.loads(asked.stdout))


def _attribute_names(answer: object) -> frozenset[str]:
    attributes = answer.get("customAttributes") if isinstance(answer, dict) else None
    return frozenset(attributes or ())
