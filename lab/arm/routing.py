"""From a URL to what serves it: the shape of Azure Resource Manager's paths."""

import hmac
from collections.abc import Callable
from urllib.parse import quote, urlencode

from lab.arm.automation import NAMESPACE as AUTOMATION
from lab.arm.automation import Automation
from lab.arm.calls import Call, Provider, Reply
from lab.arm.errors import ArmError, Json
from lab.arm.faults import Faults
from lab.arm.groups import Groups
from lab.arm.networks import VirtualNetworks, network_document
from lab.arm.operations import Operations
from lab.arm.resource_ids import ResourceId
from lab.arm.throttling import Buckets
from lab.arm.vm_sizes import SIZES
from lab.arm.vms import VirtualMachines
from lab.arm.world import Resource, World, normal_location

_PAGE = 50
"""Entries on a page of a list; the next page is named by `nextLink`."""


class Router:
    """Authenticates, throttles and dispatches management requests."""

    def __init__(
        self,
        world: World,
        operations: Operations,
        buckets: Buckets,
        providers: list[Provider],
        automation: Automation,
        token: str,
    ) -> None:
        self._world, self._operations, self._buckets, self._token = world, operations, buckets, token
        self._automation = automation
        self._groups = Groups(world)
        self._providers = {provider.type.lower(): provider for provider in providers}
        self._vms = next(provider for provider in providers if isinstance(provider, VirtualMachines))

    def handle(self, call: Call) -> Reply:
        """Answer one request; raises ArmError."""
        scheme, _, token = call.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not hmac.compare_digest(token.encode(), self._token.encode()):
            raise ArmError(
                401, "AuthenticationFailed", "Authentication failed. The 'Authorization' header is missing or invalid.",
                headers={"WWW-Authenticate": 'Bearer authorization_uri="https://login.microsoftonline.com/lab", error="invalid_token"'},
            )  # fmt: skip
        remaining = _throttle(self._world.faults, self._buckets, call.method)
        call.api_version  # noqa: B018  refuses a request without one
        with self._world.lock:
            reply = self._dispatch(call)
        if remaining is None:
            return reply
        header = f"x-ms-ratelimit-remaining-subscription-{self._buckets.name(call.method)}"
        return Reply(reply.status, reply.body, {**reply.headers, header: str(remaining)})

    def _dispatch(self, call: Call) -> Reply:
        parts = call.path.strip("/").split("/")
        lowered = [part.lower() for part in parts]
        if len(parts) < 2 or lowered[0] != "subscriptions":
            raise _unknown(call)
        if lowered[1] != self._world.subscription_id.lower():
            raise ArmError(404, "SubscriptionNotFound", f"The subscription '{parts[1]}' could not be found.")
        match lowered[2:]:
            case []:
                return self._groups.subscription(call)
            case ["locations"]:
                return self._groups.locations()
            case ["resourcegroups"]:
                return self._groups.list()
            case ["resourcegroups", _]:
                return self._groups.one(parts[3], call)
            case ["resourcegroups", group, "providers", namespace, *rest] if namespace == AUTOMATION:
                self._world.group(group)
                return self._automation.handle(group, rest, call)
            case ["resourcegroups", group, "providers", namespace, kind]:
                self._world.group(group)
                return self._list(call, f"{namespace}/{kind}", lambda resource: resource.id.group.lower() == group)
            case ["resourcegroups", _, "providers", *_]:
                return self._resource(call, parts)
            case ["providers", namespace, "locations", location, *rest]:
                return self._located(call, namespace, location, rest)
            case ["providers", "microsoft.compute", "skus"]:
                return self._skus(call)
            case ["providers", namespace, kind]:
                return self._list(call, f"{namespace}/{kind}", lambda resource: True)
        raise _unknown(call)

    def _resource(self, call: Call, parts: list[str]) -> Reply:
        group, namespace, rest = parts[3], parts[5], parts[6:]
        self._world.group(group)
        group = str(self._world.group(group)["name"])
        kind = f"{namespace}/{rest[0]}".lower()
        children = f"{kind}/{rest[2]}".lower() if len(rest) > 2 else ""
        if children in self._providers and len(rest) == 3:
            parent = self._world.get(ResourceId(parts[1], group, namespace, rest[0], rest[1]))
            return self._list(call, children, lambda resource: resource.id.key.startswith(f"{parent.id.key}/"))
        if children in self._providers and len(rest) == 4:
            resource_id = ResourceId(parts[1], group, namespace, rest[0], rest[1], rest[2], rest[3])
            return self._one(call, self._providers[children], resource_id)
        provider = self._provider(kind)
        resource_id = ResourceId(parts[1], group, namespace, rest[0], rest[1])
        if len(rest) == 2:
            return self._one(call, provider, resource_id)
        if len(rest) == 3:
            return provider.action(resource_id, rest[2].lower(), call.json() if call.method == "POST" else {}, call)
        raise _unknown(call)

    def _one(self, call: Call, provider: Provider, resource_id: ResourceId) -> Reply:
        match call.method:
            case "GET" | "HEAD":
                return Reply(200, self._document(self._world.get(resource_id), call))
            case "PUT":
                known = self._world.find(resource_id)
                return provider.put(known.id if known else resource_id, call.json(), call)
            case "PATCH":
                return provider.patch(resource_id, call.json(), call)
            case "DELETE":
                known = self._world.find(resource_id)
                return provider.delete(known.id if known else resource_id, call)
        raise ArmError(405, "HttpMethodNotAllowed", "The requested HTTP method is not allowed.")

    def _document(self, resource: Resource, call: Call) -> Json:
        if resource.type == VirtualNetworks.type:
            return network_document(self._world, resource)
        if resource.type == VirtualMachines.type:
            return self._vms.document(resource, call.query.get("$expand", ""))
        return resource.document()

    def _list(self, call: Call, type_name: str, chosen: Callable[[Resource], bool]) -> Reply:
        provider = self._provider(type_name)
        if call.method != "GET":
            raise ArmError(405, "HttpMethodNotAllowed", "The requested HTTP method is not allowed.")
        found = [resource for resource in self._world.of_kind(provider.type.rsplit("/", 1)[-1].lower()) if chosen(resource)]
        start = int(call.query.get("$skiptoken", "0"))
        body: Json = {"value": [self._document(resource, call) for resource in found[start : start + _PAGE]]}
        if start + _PAGE < len(found):
            query = urlencode({**call.query, "$skiptoken": str(start + _PAGE)})
            body["nextLink"] = f"{call.base_url}{quote(call.path)}?{query}"
        return Reply(200, body)

    def _located(self, call: Call, namespace: str, location: str, rest: list[str]) -> Reply:
        match rest:
            case ["operations" | "diskoperations", operation_id]:
                if call.query.get("monitor") == "true":
                    return self._operations.result(operation_id, call)
                return self._operations.status(operation_id)
            case ["operationresults", operation_id]:
                return self._operations.result(operation_id, call)
            case ["vmsizes"] if namespace == "microsoft.compute":
                self._world.check_location(location, "Microsoft.Compute/locations/vmSizes")
                return Reply(200, {"value": [size.document() for size in SIZES.values()]})
            case ["virtualmachines"] if namespace == "microsoft.compute":
                wanted = normal_location(location)
                return self._list(call, VirtualMachines.type, lambda resource: resource.body["location"] == wanted)
            case ["usages"] if namespace == "microsoft.compute":
                return self._usages(location)
        raise _unknown(call)

    def _usages(self, location: str) -> Reply:
        wanted = self._world.check_location(location, "Microsoft.Compute/locations/usages")
        used = sum(
            SIZES[vm.properties["hardwareProfile"]["vmSize"].lower()].cores
            for vm in self._world.of_kind("virtualmachines")
            if vm.body["location"] == wanted
        )
        limit = self._world.faults.cores_quota
        name = {"value": "cores", "localizedValue": "Total Regional vCPUs"}
        return Reply(
            200, {"value": [{"name": name, "unit": "Count", "currentValue": used, "limit": 10_000 if limit is None else limit}]}
        )

    def _skus(self, call: Call) -> Reply:
        wanted = call.query.get("$filter", "").lower()
        locations = [name for name in self._world.locations if "location eq" not in wanted or f"'{name.lower()}'" in wanted]
        return Reply(200, {"value": [size.sku_document(name) for name in locations for size in SIZES.values()]})

    def _provider(self, type_name: str) -> Provider:
        provider = self._providers.get(type_name.lower())
        if provider is None:
            raise ArmError(
                404,
                "InvalidResourceType",
                f"The resource type '{type_name}' could not be found in the namespace for api version given.",
            )
        return provider


def _throttle(faults: Faults, buckets: Buckets, method: str) -> int | None:
    """Raise 429 if it is due; return what remains in the bucket."""
    asked_for = faults.take_throttle()
    remaining, wait_s = (0, asked_for) if asked_for is not None else buckets.take(method)
    if wait_s is None:
        return remaining
    name = Buckets.name(method)
    raise ArmError(
        429, "SubscriptionRequestsThrottled",
        f"Number of {name} requests for the subscription exceeded the limit. Please try again after '{wait_s:g}' seconds.",
        headers={"Retry-After": f"{wait_s:g}", f"x-ms-ratelimit-remaining-subscription-{name}": "0"},
    )  # fmt: skip


def _unknown(call: Call) -> ArmError:
    return ArmError(404, "InvalidResourceType", f"The path {call.path} names no resource type that is known here.")
