"""Azure resource ids, which compare without regard to case, and the name rules of the types that the lab knows.

Name rules: learn.microsoft.com, "Naming rules and restrictions for Azure resources"; PSRule for Azure `Azure.VM.DiskName`.
"""

import re
from dataclasses import dataclass

from lab.arm.errors import ArmError

_ID = re.compile(
    r"/subscriptions/(?P<subscription>[^/]+)/resourceGroups/(?P<group>[^/]+)/providers/(?P<namespace>[^/]+)"
    r"/(?P<type>[^/]+)/(?P<name>[^/]+)(?:/(?P<child_type>[^/]+)/(?P<child_name>[^/]+))?/?",
    re.IGNORECASE,
)
_DOTTED = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9_.-]{0,78}[A-Za-z0-9_])?")
_RULES = {
    "disks": _DOTTED,
    "snapshots": _DOTTED,
    "networkinterfaces": _DOTTED,
    "subnets": _DOTTED,
    "virtualnetworks": re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9_.-]{0,62}[A-Za-z0-9_])"),
    "virtualmachines": re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9_.-]{0,62}[A-Za-z0-9_])?"),
}


@dataclass(frozen=True, slots=True)
class ResourceId:
    """The id of a resource, spelled as it was first created."""

    subscription: str
    group: str
    namespace: str
    type: str
    name: str
    child_type: str | None = None
    child_name: str | None = None

    def __str__(self) -> str:
        parent = (
            f"/subscriptions/{self.subscription}/resourceGroups/{self.group}/providers/{self.namespace}/{self.type}/{self.name}"
        )
        return parent if self.child_type is None else f"{parent}/{self.child_type}/{self.child_name}"

    @property
    def key(self) -> str:
        """The id in the form by which it is compared."""
        return str(self).lower()

    @property
    def kind(self) -> str:
        """The last type in lower case: `disks`, `subnets`."""
        return (self.child_type or self.type).lower()

    @property
    def leaf(self) -> str:
        """The resource's own name."""
        return self.child_name or self.name

    def check_name(self) -> None:
        """Raise InvalidResourceName (Network) or InvalidParameter (Compute) unless the name follows the type's rule."""
        rule = _RULES.get(self.kind)
        if rule is None or rule.fullmatch(self.leaf):
            return
        message = f"Resource name {self.leaf} is invalid for a resource of type {self.kind}."
        if self.namespace.lower() == "microsoft.network":
            raise ArmError(400, "InvalidResourceName", message)
        raise ArmError(400, "InvalidParameter", message, target=f"{self.kind}.name")


def parse_id(text: str) -> ResourceId | None:
    """Return the resource id in a path, or None if it is not one."""
    match = _ID.fullmatch(text)
    return ResourceId(**match.groupdict()) if match else None


def same(left: str | None, right: str | None) -> bool:
    """Return whether two ids name one resource."""
    return (left or "").lower().rstrip("/") == (right or "").lower().rstrip("/")


def upper_group(resource_id: ResourceId) -> str:
    """Return an id as Compute spells it in references such as `managedBy`: with the group's name in capitals."""
    return str(resource_id).replace(f"/resourceGroups/{resource_id.group}/", f"/resourceGroups/{resource_id.group.upper()}/")
