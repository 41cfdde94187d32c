"""A program that stands for nbdkit with its vddk plugin: a real process, socket, descriptor and signal; no disk.

It writes what it was given to `record.json` beside the socket's folder. What it should do otherwise is a file beside
this script's copy: `no-plugin` (no vddk plugin), `broken` (ends at once, saying why).
"""

import json
import os
import signal
import socket
import sys
from pathlib import Path

HERE = Path(sys.argv[0]).parent


def main() -> int:
    if sys.argv[1:] == ["--dump-plugin", "vddk"]:
        return 1 if (HERE / "no-plugin").exists() else 0
    if (HERE / "broken").exists():
        sys.stderr.write("nbdkit: error: VixDiskLib_Open: the host refused the connection\n")
        return 1
    path = Path(sys.argv[sys.argv.index("--unix") + 1])
    password = next(argument for argument in sys.argv if argument.startswith("password=-"))
    with os.fdopen(int(password.removeprefix("password=-")), "rb") as secret:
        record = {"arguments": sys.argv[1:], "password": secret.read().decode(), "environment": sorted(os.environ.values())}
    (HERE / "record.json").write_text(json.dumps(record))
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})  # a handler could come while the wait below holds its lock
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        server.listen()
        signal.sigwait({signal.SIGTERM})
    (HERE / "closed").touch()
    return 0


sys.exit(main())
