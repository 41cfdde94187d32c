"""The file under the throttle's memory, made by the worker alone: a data process is handed it, and starts sooner without this module."""

import os
import tempfile

from deltaferry.blocks.budget_rows import SIZE_BYTES
from deltaferry.model.errors import DeltaferryError, ErrorKind


def create_file() -> int:
    """Return the descriptor of a new file for rows, all zero, without a name. Raises LOCAL_DISK_FULL."""
    try:
        with tempfile.TemporaryFile() as file:
            file.write(bytes(SIZE_BYTES))  # written, so that a full disk is noticed here
            file.flush()
            return os.dup(file.fileno())
    except OSError as error:
        raise DeltaferryError(
            ErrorKind.LOCAL_DISK_FULL,
            f"The worker cannot write the {SIZE_BYTES // 1024} KiB that it needs into its folder for temporary files "
            f"({error.strerror}): make room there, or set TMPDIR to a folder that has some.",
        ) from None
