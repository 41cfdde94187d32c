"""Azure Automation runbooks, as recovery plans run them."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Protocol

from deltaferry.ports.access import Beat


@dataclass(frozen=True, slots=True)
class RunbookEnd:
    """How a runbook's job ended."""

    status: str
    """The service's word: `Completed` is the one that is well."""
    timed_out: bool
    """It ran longer than it may, and was told to stop."""
    exception: str
    """What the service says of a failure; empty where it says nothing."""
    output: str
    """The end of what the runbook wrote."""

    @property
    def succeeded(self) -> bool:
        """Whether the runbook did its work."""
        return self.status == "Completed" and not self.timed_out


class Runbooks(Protocol):
    """Runs runbooks of one subscription."""

    def run(self, runbook_id: str, job: str, parameters: Mapping[str, str], limit: timedelta, beat: Beat) -> RunbookEnd:
        """Run a runbook as the job with this GUID and wait for its end; a job that exists already is waited for.

        What `beat` raises ends the wait; the job is told to stop then, except at INTERRUPTED, since another attempt goes on
        with it. Raises BAD_INPUT for what is no runbook of this subscription, and the kinds of Azure Resource Manager.
        """
