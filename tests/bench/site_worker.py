"""The process that the bench of a whole site runs all workflows in, and nothing else: its memory is that of cached workflows."""

import argparse
import asyncio
import json
import signal
import sys

from temporalio.client import Client
from temporalio.worker import Worker

from workflows import names
from workflows.plugin import plugin
from workflows.register import WORKFLOWS


async def serve(address: str) -> None:
    """Serve workflows until SIGTERM."""
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    client = await Client.connect(address, plugins=[plugin()])
    async with Worker(client, task_queue=names.CONTROL_QUEUE, workflows=list(WORKFLOWS)):
        sys.stdout.write(json.dumps({"address": address}) + "\n")
        sys.stdout.flush()
        await stop.wait()


def main() -> None:
    """Serve at the address that the command line names."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--address", required=True)
    asyncio.run(serve(parser.parse_args().address))


if __name__ == "__main__":
    main()
