"""What RetrieveServiceContent says, and the service's singletons."""

import uuid
from typing import Any

from lab.vcenter.soap import API_VERSION
from lab.vcenter.vmodl_values import complete
from lab.vcenter.vocabulary import vim, vmodl
from lab.vcenter.world import LabObject, World, data_object

_INSTANCE_UUID = str(uuid.uuid4())

CUSTOM_FIELDS_MANAGER = vim.CustomFieldsManager("CustomFieldsManager")
"""The manager of custom attributes: the inventory's to fill."""

_SINGLETONS = {
    "customFieldsManager": CUSTOM_FIELDS_MANAGER,
    "viewManager": vim.view.ViewManager("ViewManager"),
    "sessionManager": vim.SessionManager("SessionManager"),
    "authorizationManager": vim.AuthorizationManager("AuthorizationManager"),
    "eventManager": vim.event.EventManager("EventManager"),
    "taskManager": vim.TaskManager("TaskManager"),
    "searchIndex": vim.SearchIndex("SearchIndex"),
}


def service_content() -> Any:
    """Return the ServiceInstanceContent."""
    about = data_object(
        vim.AboutInfo,
        name="VMware vCenter Server",
        fullName="VMware vCenter Server 8.0.1 build-0 (lab)",
        vendor="VMware, Inc.",
        version="8.0.1",
        build="0",
        osType="linux-x64",
        productLineId="vpx",
        apiType="VirtualCenter",
        apiVersion=API_VERSION,
        instanceUuid=_INSTANCE_UUID,
        licenseProductName="VMware VirtualCenter Server",
        licenseProductVersion="8.0",
    )
    return complete(
        data_object(
            vim.ServiceInstanceContent,
            rootFolder=vim.Folder("group-d1"),
            propertyCollector=vmodl.query.PropertyCollector("propertyCollector"),
            about=about,
            **_SINGLETONS,
        )
    )


def add_singletons(world: World) -> None:
    """Make the service instance and its stateless managers reachable."""
    service = LabObject(vim.ServiceInstance("ServiceInstance"))
    service.readers["content"] = service_content
    service.readers["capability"] = lambda: complete(vim.Capability())
    world.add(service)
    for name in ("viewManager", "authorizationManager", "searchIndex"):
        world.add(LabObject(_SINGLETONS[name]))


SERVICE_VERSIONS = (
    '<?xml version="1.0" encoding="UTF-8"?>\n<namespaces version="1.0"><namespace><name>urn:vim25</name>'
    f"<version>{API_VERSION}</version><priorVersions>"
    + "".join(
        f"<version>{version}</version>"
        for version in ("8.0.0.1", "7.0.3.2", "7.0.0.0", "6.7.3", "6.7", "6.5", "6.0", "5.5", "5.1")
    )
    + "</priorVersions></namespace></namespaces>"
).encode()
"""`/sdk/vimServiceVersions.xml`, by which clients choose the version that they speak."""
