"""Runs the lab's Azure Resource Manager in a process of its own.

`python -m lab.arm --directory DIR --certificate PEM --key PEM --ca PEM --accounts FILE.json [--seed FILE.json]`

The bearer token of the management endpoint is read from the environment variable LAB_ARM_TOKEN, the control
endpoint's from LAB_CONTROL_TOKEN. One JSON line on stdout says when it is ready: `{"port": …, "control_port": …}`.
The process dies with its parent.
"""

import argparse
import json
import logging
import os
import signal
import sys
from pathlib import Path
from threading import Event, Thread

from lab.arm.assembly import Options, assemble
from lab.arm.control_server import ControlServer
from lab.arm.faults import Times
from lab.leash import tie_to_parent

TOKEN_VARIABLE = "LAB_ARM_TOKEN"
CONTROL_TOKEN_VARIABLE = "LAB_CONTROL_TOKEN"


def _options() -> Options:
    parser = argparse.ArgumentParser(prog="python -m lab.arm", description="The lab's Azure Resource Manager.")
    parser.add_argument("--directory", type=Path, required=True, help="where the disks' bytes are kept")
    parser.add_argument("--certificate", type=Path, required=True, help="server certificate chain, PEM")
    parser.add_argument("--key", type=Path, required=True, help="its private key, PEM")
    parser.add_argument("--ca", type=Path, required=True, help="authority that signed the blob endpoint's certificate, PEM")
    parser.add_argument(
        "--accounts", type=Path, required=True, help='storage accounts: {ARM id: {"url", "name", "key"[, "location"]}}'
    )
    parser.add_argument("--seed", type=Path, help="subscription, locations, resource groups and networks that exist at the start")
    parser.add_argument("--retry-after-s", type=float, default=1.0, help="Retry-After of long-running operations")
    parser.add_argument("--operation-s", type=float, default=0.0, help="the least time that an operation takes")
    parser.add_argument("--throttling-scale", type=float, default=1.0, help="size of ARM's token buckets; 1 is Azure's, 0 is off")
    parser.add_argument("--guest-bytes-per-second", type=int, default=0, help="what every VM's guest writes; 0: nothing")
    given = parser.parse_args()
    return Options(
        given.directory, given.certificate, given.key, given.ca, given.accounts, given.seed,
        Times(given.retry_after_s, given.operation_s), given.throttling_scale, given.guest_bytes_per_second,
    )  # fmt: skip


def main() -> None:
    """Serve until SIGTERM or SIGINT."""
    tie_to_parent(os.getppid())
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    stop = Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    parts = assemble(_options(), os.environ[TOKEN_VARIABLE])
    control = ControlServer(parts, os.environ[CONTROL_TOKEN_VARIABLE])
    for server in (parts.server, control):
        Thread(target=server.serve_forever, name=type(server).__name__, daemon=True).start()
    sys.stdout.write(json.dumps({"port": parts.server.server_port, "control_port": control.server_port}) + "\n")
    sys.stdout.flush()
    stop.wait()
    parts.world.faults.stopping.set()


if __name__ == "__main__":
    main()
