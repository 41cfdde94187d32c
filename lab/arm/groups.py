"""Subscriptions and resource groups: what ARM itself serves."""

from lab.arm.calls import Call, Reply
from lab.arm.disk_rules import check_tags
from lab.arm.errors import ArmError, Json
from lab.arm.world import World


def group_document(world: World, name: str, location: str, tags: Json) -> Json:
    """Return a resource group's document."""
    return {
        "id": f"/subscriptions/{world.subscription_id}/resourceGroups/{name}",
        "name": name,
        "type": "Microsoft.Resources/resourceGroups",
        "location": location,
        "tags": tags,
        "properties": {"provisioningState": "Succeeded"},
    }


class Groups:
    """Serves `/subscriptions/{id}` and `/subscriptions/{id}/resourcegroups/{name}`."""

    def __init__(self, world: World) -> None:
        self._world = world

    def subscription(self, call: Call) -> Reply:
        """Answer a GET of the subscription."""
        if call.method != "GET":
            raise ArmError(405, "HttpMethodNotAllowed", "The requested HTTP method is not allowed.")
        subscription = self._world.subscription_id
        return Reply(
            200,
            {"id": f"/subscriptions/{subscription}", "subscriptionId": subscription, "displayName": "Lab", "state": "Enabled"},
        )

    def locations(self) -> Reply:
        """Answer a GET of the subscription's locations."""
        scope = f"/subscriptions/{self._world.subscription_id}/locations"
        return Reply(
            200,
            {"value": [{"id": f"{scope}/{name}", "name": name, "displayName": name} for name in self._world.locations]},
        )

    def list(self) -> Reply:
        """Answer a GET of all groups."""
        return Reply(200, {"value": list(self._world.groups.values())})

    def one(self, name: str, call: Call) -> Reply:
        """Answer HEAD, GET, PUT and DELETE of one group."""
        found = self._world.groups.get(name.lower())
        if call.method == "HEAD":
            return Reply(204 if found else 404)
        if call.method == "GET":
            return Reply(200, self._world.group(name))
        if call.method == "PUT":
            body = call.json()
            check_tags(body.get("tags"))
            location = self._world.check_location(body.get("location"), "Microsoft.Resources/resourceGroups")
            document = group_document(self._world, found["name"] if found else name, location, dict(body.get("tags") or {}))
            self._world.groups[name.lower()] = document
            return Reply(200 if found else 201, document)
        raise ArmError(405, "HttpMethodNotAllowed", "The requested HTTP method is not allowed.")
