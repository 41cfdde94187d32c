"""Start the lab's vCenter: `python -m lab.vcenter --directory DIR --inventory FILE --certificate PEM --key PEM`.

When it serves, one JSON line goes to standard output, or to the file descriptor of `--ready-fd`, which is closed then:

    {"port": 40443, "control_port": 40444, "control_token": "…", "nbd": {"esxi-1.lab": 40902}}

Everything listens on 127.0.0.1. It ends on SIGTERM or SIGINT, and with the process that started it.
"""

import argparse
import json
import logging
import os
import secrets
import signal
import sys
import threading
from pathlib import Path

from lab.leash import tie_to_parent
from lab.vcenter.control_server import ControlServer
from lab.vcenter.inventory_file import read_inventory
from lab.vcenter.vcenter import VCenter
from lab.vcenter.web_server import server_tls

CONTROL_TOKEN = "LAB_CONTROL_TOKEN"
"""The environment variable with the control port's token; without it one is made, and printed as `control_token`."""


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m lab.vcenter", description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--directory", type=Path, required=True, help="where datastores live; made if missing")
    parser.add_argument("--inventory", type=Path, required=True, help="the inventory's JSON file")
    parser.add_argument("--certificate", required=True, help="PEM file of the server's certificate")
    parser.add_argument("--key", required=True, help="PEM file of the certificate's key")
    parser.add_argument("--port", type=int, default=0, help="HTTPS port; default: a free one")
    parser.add_argument("--ready-fd", type=int, default=None, help="where the line that says that it serves goes")
    return parser.parse_args()


def main() -> None:
    """Serve until a signal comes."""
    tie_to_parent(os.getppid())
    arguments = _arguments()
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    arguments.directory.mkdir(parents=True, exist_ok=True)
    tls = server_tls(arguments.certificate, arguments.key)
    vcenter = VCenter(arguments.directory, read_inventory(arguments.inventory), tls, arguments.port)
    token = os.environ.pop(CONTROL_TOKEN, "") or secrets.token_urlsafe(24)
    control = ControlServer(vcenter, token)
    ready = {
        "port": vcenter.web.port,
        "control_port": control.port,
        "control_token": token,
        "nbd": vcenter.exports.ports(),
    }
    with os.fdopen(arguments.ready_fd if arguments.ready_fd is not None else os.dup(sys.stdout.fileno()), "w") as stream:
        stream.write(json.dumps(ready) + "\n")
    stop.wait()
    control.close()
    vcenter.close()


if __name__ == "__main__":
    main()
