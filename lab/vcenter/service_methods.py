"""The service's own methods: log-in, views, the property collector, search, privileges, tasks."""

import secrets
from typing import Any

from lab.vcenter.collector import Filter, PropertyCollector
from lab.vcenter.dispatch import Call, Handler
from lab.vcenter.entities import Datastore, Host, ManagedEntity
from lab.vcenter.events import EventLog
from lab.vcenter.inventory import Inventory
from lab.vcenter.service_content import service_content
from lab.vcenter.views import ContainerView, ListView
from lab.vcenter.virtual_machine import VirtualMachine
from lab.vcenter.vocabulary import vim, vmodl
from lab.vcenter.world import LabObject, data_object, now


class ServiceMethods:
    """Handlers by WSDL name."""

    def __init__(self, inventory: Inventory, events: EventLog) -> None:
        self._inventory = inventory
        self._events = events

    def handlers(self) -> dict[str, Handler]:
        """Return the table."""
        return {
            "RetrieveServiceContent": lambda _: service_content(),
            "CurrentTime": lambda _: now(),
            "Login": _login,
            "Logout": lambda call: call.sessions.end(call.caller),
            "TerminateSession": lambda call: call.sessions.end_by_key(call.argument("sessionId")),
            "SessionIsActive": _session_is_active,
            "CreateContainerView": _create_container_view,
            "CreateListView": _create_list_view,
            "ModifyListView": _modify_list_view,
            "ResetListView": _reset_list_view,
            "DestroyView": lambda call: call.caller.remove(call.target.moref),
            "RetrieveProperties": lambda call: _collector(call).retrieve(call.argument("specSet")),
            "RetrievePropertiesEx": lambda call: _collector(call).retrieve_page(
                call.argument("specSet"), call.argument("options").maxObjects
            ),
            "ContinueRetrievePropertiesEx": lambda call: _collector(call).continue_page(call.argument("token")),
            "CancelRetrievePropertiesEx": lambda call: _collector(call).cancel_page(call.argument("token")),
            "CreateFilter": lambda call: _collector(call).create_filter(
                call.argument("spec"), bool(call.argument("partialUpdates"))
            ),
            "DestroyPropertyFilter": _destroy_filter,
            "CreatePropertyCollector": _create_collector,
            "DestroyPropertyCollector": lambda call: _collector(call).destroy(),
            "WaitForUpdatesEx": _wait_for_updates_ex,
            "WaitForUpdates": lambda call: _collector(call).wait_for_updates(call.argument("version"), None, None),
            "CheckForUpdates": lambda call: _collector(call).wait_for_updates(call.argument("version"), 0, None),
            "CancelWaitForUpdates": lambda call: _collector(call).cancel_waiting(),
            "HasPrivilegeOnEntities": _has_privilege_on_entities,
            "HasPrivilegeOnEntity": lambda call: [
                privilege not in call.world.denials.privileges for privilege in call.argument("privId")
            ],
            "CancelTask": _cancel_task,
            "RefreshDatastore": _refresh_datastore,
            "QueryEvents": lambda call: self._events.query(call.argument("filter")),
            "AcquireGenericServiceTicket": _acquire_ticket,
            "FindByUuid": lambda call: next(iter(self._by_uuid(call)), None),
            "FindAllByUuid": self._by_uuid,
            "FindByInventoryPath": self._find_by_path,
            "FindChild": self._find_child,
            "FindByDnsName": self._find_by_dns_name,
        }

    def _by_uuid(self, call: Call) -> list[Any]:
        wanted = call.argument("uuid").lower()
        if not call.argument("vmSearch"):
            return []
        by_instance = bool(call.argument("instanceUuid"))
        return [
            vm.reference
            for vm in self._inventory.vms
            if (vm.identity.instance_uuid if by_instance else vm.identity.bios_uuid).lower() == wanted
        ]

    def _find_by_path(self, call: Call) -> Any:
        found = self._inventory.find_by_path(call.argument("inventoryPath"))
        return None if found is None else found.reference

    def _find_child(self, call: Call) -> Any:
        parent = call.world.get(call.argument("entity"))
        for item in call.world.all():
            if isinstance(item, ManagedEntity) and item.parent is parent and item.name == call.argument("name"):
                return item.reference
        return None

    def _find_by_dns_name(self, call: Call) -> Any:
        wanted = VirtualMachine if call.argument("vmSearch") else Host
        for item in call.world.all():
            if isinstance(item, wanted) and item.name == call.argument("dnsName"):
                return item.reference
        return None


# --- sessions ---


def _login(call: Call) -> Any:
    session = call.sessions.log_in(call.argument("userName"), call.argument("password"), call.address, call.agent)
    call.opened = session
    return session.describe()


def _session_is_active(call: Call) -> bool:
    return call.session is not None and call.session.key == call.argument("sessionID")


def _acquire_ticket(call: Call) -> Any:
    return data_object(vim.SessionManager.GenericServiceTicket, id=call.caller.cookie, hostName="")


# --- views ---


def _create_container_view(call: Call) -> Any:
    container = call.argument("container")
    call.world.get(container)
    moref = f"session[{call.caller.key}]{secrets.token_hex(8)}"
    view = ContainerView(call.world, moref, container, list(call.argument("type")), bool(call.argument("recursive")))
    call.caller.add(view)
    return view.reference


def _create_list_view(call: Call) -> Any:
    view = ListView(call.world, f"session[{call.caller.key}]{secrets.token_hex(8)}", call.argument("obj"))
    call.caller.add(view)
    return view.reference


def _list_view(call: Call) -> ListView:
    if not isinstance(call.target, ListView):
        raise vmodl.fault.InvalidRequest(msg="The object is not a list view.")
    return call.target


def _reset_list_view(call: Call) -> list[Any]:
    view, wanted = _list_view(call), call.argument("obj")
    view.objects = [item for item in wanted if call.world.find(str(item._moId)) is not None]
    call.world.changed()
    return [item for item in wanted if item not in view.objects]


def _modify_list_view(call: Call) -> list[Any]:
    view = _list_view(call)
    unknown = [item for item in call.argument("add") if call.world.find(str(item._moId)) is None]
    view.objects = [item for item in view.objects if item not in call.argument("remove")]
    view.objects.extend(item for item in call.argument("add") if item not in unknown and item not in view.objects)
    call.world.changed()
    return unknown


# --- property collector ---


def _collector(call: Call) -> PropertyCollector:
    if not isinstance(call.target, PropertyCollector):
        raise vmodl.fault.InvalidRequest(msg="The object is not a property collector.")
    return call.target


def _create_collector(call: Call) -> Any:
    moref = f"session[{call.caller.key}]{secrets.token_hex(8)}"
    made = PropertyCollector(call.world, call.sessions, call.caller, moref)
    call.caller.add(made)
    return made.reference


def _destroy_filter(call: Call) -> None:
    target: LabObject = call.target
    if not isinstance(target, Filter):
        raise vmodl.fault.InvalidRequest(msg="The object is not a filter.")
    for item in call.caller.objects():
        if isinstance(item, PropertyCollector) and item.destroy_filter(target):
            return


def _wait_for_updates_ex(call: Call) -> Any:
    options = call.argument("options")
    seconds = None if options is None else options.maxWaitSeconds
    if seconds is not None and seconds < 0:
        raise vmodl.fault.InvalidArgument(invalidProperty="options.maxWaitSeconds", msg="A specified parameter was not correct")
    limit = None if options is None else options.maxObjectUpdates
    return _collector(call).wait_for_updates(call.argument("version"), seconds, limit)


# --- datastores ---


def _refresh_datastore(call: Call) -> None:
    if not isinstance(call.target, Datastore):
        raise vmodl.fault.InvalidRequest(msg="The object is not a datastore.")
    if not call.target.accessible:
        raise vim.fault.HostConfigFault(msg="No host can reach the datastore.")
    with call.world.lock:
        call.target.refresh()
    call.world.changed()


# --- privileges and tasks ---


def _has_privilege_on_entities(call: Call) -> list[Any]:
    answer = []
    for entity in call.argument("entity"):
        call.world.get(entity)
        privileges = [
            vim.AuthorizationManager.PrivilegeAvailability(
                privId=privilege, isGranted=privilege not in call.world.denials.privileges
            )
            for privilege in call.argument("privId")
        ]
        answer.append(vim.AuthorizationManager.EntityPrivilege(entity=entity, privAvailability=privileges))
    return answer


def _cancel_task(call: Call) -> None:
    raise vmodl.fault.NotSupported(msg="The task is not cancelable.")
