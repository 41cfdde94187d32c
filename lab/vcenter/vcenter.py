"""The whole lab vCenter, put together."""

import ssl
import threading
from pathlib import Path

from lab.vcenter.dispatch import Dispatcher
from lab.vcenter.events import EventLog
from lab.vcenter.exports import HostExports
from lab.vcenter.folder import DatastoreFiles
from lab.vcenter.inventory import Inventory
from lab.vcenter.inventory_file import InventorySpec
from lab.vcenter.occupancy import Occupancy
from lab.vcenter.power_operations import PowerOperations
from lab.vcenter.reconfiguration import Reconfiguration
from lab.vcenter.service_content import add_singletons
from lab.vcenter.service_methods import ServiceMethods
from lab.vcenter.sessions import SessionManager
from lab.vcenter.settings import Times
from lab.vcenter.snapshot_operations import SnapshotOperations
from lab.vcenter.tasks import TaskManager
from lab.vcenter.vm_lifecycle import VmLifecycle
from lab.vcenter.vm_methods import VmMethods
from lab.vcenter.web_server import WebServer
from lab.vcenter.world import World


class VCenter:
    """A vCenter with its ESXi hosts' NBD servers; serves from construction until `close`."""

    def __init__(self, directory: Path, spec: InventorySpec, tls: ssl.SSLContext, port: int = 0) -> None:
        self.world = World(Times().changed(spec.times))
        self.tasks = TaskManager(self.world)
        self.sessions = SessionManager(self.world, spec.users)
        self.events = EventLog(self.world)
        for singleton in (self.tasks, self.sessions, self.events):
            self.world.add(singleton)
        add_singletons(self.world)
        self.inventory = Inventory(self.world, self.tasks, directory, spec)
        self.exports = HostExports(self.world, self.inventory, lambda: self.occupancy.opened())
        self.occupancy = Occupancy(self.exports.readers, lambda: self.inventory.vms)
        self.snapshots = SnapshotOperations(self.world, self.exports.holds, self.occupancy.snapshot_taken)
        self.power = PowerOperations(self.world, self.events, self.exports.cut_guest, self.exports.held_disks)
        vm_methods = VmMethods(
            self.tasks, self.snapshots, self.power, Reconfiguration(self.world, self.inventory, self.exports.held_disks)
        )
        lifecycle = VmLifecycle(self.world, self.tasks, self.inventory, self.exports.held_disks)
        handlers = {**ServiceMethods(self.inventory, self.events).handlers(), **vm_methods.handlers(), **lifecycle.handlers()}
        self.dispatcher = Dispatcher(self.world, self.sessions, handlers)
        self.web = WebServer(self.dispatcher, DatastoreFiles(self.world, self.sessions, self.inventory), tls, port)
        threading.Thread(target=self.web.serve_forever, kwargs={"poll_interval": 0.1}, name="sdk", daemon=True).start()

    def close(self) -> None:
        """Stop serving."""
        self.world.stopping.set()
        self.world.changed()
        self.web.shutdown()
        self.web.server_close()
        self.exports.close()
