import subprocess
import sys

import pytest

_PROGRAM = """
import atexit, os, sys, console.main
atexit.register(os._exit, 99)  # stands for what a thread of the SDK does to a process that is being torn down
sys.argv = ["deltaferry", *sys.argv[1:]]
console.main.main()
"""


@pytest.mark.parametrize(
    ("arguments", "code", "shown"), [(["--help"], 0, "Replicate VMware"), (["no-such-command"], 2, "No such command")]
)
def test_a_command_ends_with_its_own_exit_code_and_without_the_interpreters_tear_down(
    arguments: list[str], code: int, shown: str
) -> None:
    done = subprocess.run([sys.executable, "-c", _PROGRAM, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == code
    assert shown in done.stdout + done.stderr
