"""A workflow that does what none may."""

import time

from temporalio import workflow


@workflow.defn
class ReadsTheClock:
    """Returns the time of the machine, which a replay would see another of."""

    @workflow.run
    async def run(self) -> float:
        """Read the clock."""
        return time.time()
