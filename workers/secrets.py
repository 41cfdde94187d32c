"""References to secrets: configuration says where a secret is, never what it is (spec §5)."""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from deltaferry.model.errors import DeltaferryError, ErrorKind

_REFERENCE = re.compile(r"env:[A-Za-z_][A-Za-z0-9_]*|file:[/~][^\0]*")
_MAX_FILE_BYTES = 64 * 1024

HOW_TO_WRITE = '"env:NAME" for an environment variable, or "file:/path" for a file'


def is_reference(text: str) -> bool:
    """Return whether a text has the form of a reference, so that a literal secret is refused."""
    return _REFERENCE.fullmatch(text) is not None


@dataclass(frozen=True, slots=True)
class SecretRef:
    """Where a secret is: `env:NAME` or `file:/path`. Its repr shows the reference; the secret is never kept."""

    reference: str

    def __post_init__(self) -> None:
        """Refuse what is not a reference, without repeating it: it may be the secret itself."""
        if not is_reference(self.reference):
            raise DeltaferryError(ErrorKind.BAD_CONFIGURATION, f"A secret is given by reference: write {HOW_TO_WRITE}.")

    def __repr__(self) -> str:
        """Return the reference, never the secret."""
        return f"SecretRef({self.reference!r})"

    def read(self, environ: Mapping[str, str] | None = None) -> str:
        """Return the secret as it is now, resolved anew, without the line end of a file.

        Raises BAD_CONFIGURATION where it is missing, empty or unreadable.
        """
        scheme, _, place = self.reference.partition(":")
        if scheme == "env":
            value = (os.environ if environ is None else environ).get(place, "")
            if not value:
                raise self._unusable(f"the environment variable {place} is not set")
            return value
        try:
            with Path(place).expanduser().open("rb") as file:
                data = file.read(_MAX_FILE_BYTES + 1)
            value = data.decode("utf-8").rstrip("\r\n")
        except OSError as error:
            raise self._unusable(error.strerror or type(error).__name__) from None
        except (UnicodeDecodeError, RuntimeError):  # RuntimeError: `~` without a home directory
            raise self._unusable("it cannot be read as text") from None
        if not value or len(data) > _MAX_FILE_BYTES:
            raise self._unusable("the file is empty or larger than 64 KiB")
        return value

    def _unusable(self, reason: str) -> DeltaferryError:
        return DeltaferryError(ErrorKind.BAD_CONFIGURATION, f"The secret {self.reference} cannot be read: {reason}.")
