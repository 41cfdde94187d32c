"""What every request meets: authentication, long-running operations, throttling, faults of the connection."""

import http.client
import json
import ssl
from urllib.parse import urlsplit

import pytest
from azure.core.exceptions import (
    ClientAuthenticationError,
    HttpResponseError,
    ResourceNotFoundError,
    ServiceRequestError,
    ServiceResponseError,
)
from azure.mgmt.compute import ComputeManagementClient

VERSION = "api-version=2024-01-01"
EMPTY = {"location": "lab", "properties": {"creationData": {"createOption": "Empty"}, "diskSizeGB": 1}}


def ask(azure, method, path, body=None):
    context = ssl.create_default_context(cafile=str(azure.certificates.ca_file))
    connection = http.client.HTTPSConnection("127.0.0.1", urlsplit(azure.arm.url).port, context=context, timeout=30)
    data = None if body is None else json.dumps(body)
    connection.request(method, path, data, {"Authorization": f"Bearer {azure.arm.token}", "Content-Type": "application/json"})
    response = connection.getresponse()
    content = response.read()
    connection.close()
    return response.status, response.headers, json.loads(content) if content else None


def disk_path(azure, name):
    return f"/subscriptions/{azure.subscription}/resourceGroups/{azure.group}/providers/Microsoft.Compute/disks/{name}?{VERSION}"


@pytest.fixture
def stubborn(azure):
    """A client that tries again at once, and one that never does."""
    credential = azure.compute._config.credential
    with (
        ComputeManagementClient(credential, azure.subscription, **azure.client_options(retry_backoff_factor=0)) as patient,
        ComputeManagementClient(credential, azure.subscription, **azure.client_options(retry_total=0)) as single,
    ):
        yield patient, single


def test_a_wrong_token_is_refused(azure):
    class Wrong(type(azure.compute._config.credential)):
        pass

    with (
        ComputeManagementClient(Wrong("wrong"), azure.subscription, **azure.client_options()) as client,
        pytest.raises(ClientAuthenticationError),
    ):
        client.disks.get(azure.group, "any")


def test_missing_things_are_told_apart(azure):
    for group, code in (("nowhere", "ResourceGroupNotFound"), (azure.group, "ResourceNotFound")):
        with pytest.raises(ResourceNotFoundError) as missing:
            azure.compute.disks.get(group, "missing")
        assert missing.value.error.code == code
    with pytest.raises(ResourceNotFoundError) as missing:
        list(azure.compute.virtual_machines.list("nowhere"))
    assert missing.value.error.code == "ResourceGroupNotFound"
    assert ask(azure, "GET", f"/subscriptions/other/resourcegroups?{VERSION}")[2]["error"]["code"] == "SubscriptionNotFound"


def test_resource_groups_answer_get_and_head(azure):
    path = f"/subscriptions/{azure.subscription}/resourcegroups"
    assert ask(azure, "GET", f"{path}/{azure.group.lower()}?{VERSION}")[2]["name"] == azure.group
    assert ask(azure, "HEAD", f"{path}/{azure.group}?{VERSION}")[0] == 204
    assert ask(azure, "HEAD", f"{path}/missing?{VERSION}")[0] == 404
    status, _, body = ask(azure, "GET", f"{path}/missing?{VERSION}")
    assert (status, body["error"]["code"]) == (404, "ResourceGroupNotFound")


def test_any_api_version_is_taken_and_none_is_not(azure):
    path = disk_path(azure, "x").partition("?")[0]
    assert ask(azure, "GET", path)[2]["error"]["code"] == "MissingApiVersionParameter"
    assert ask(azure, "GET", f"{path}?api-version=1999-01-01")[2]["error"]["code"] == "ResourceNotFound"


def test_a_long_running_operation_speaks_all_its_headers(azure):
    azure.control.set_times(operation_s=1000, retry_after_s=7)
    path = disk_path(azure, azure.name("disk"))
    status, headers, body = ask(azure, "PUT", path, EMPTY)
    assert (status, headers["Retry-After"], body["properties"]["provisioningState"]) == (202, "7", "Creating")
    operation, location = (urlsplit(headers[name]) for name in ("Azure-AsyncOperation", "Location"))
    assert ask(azure, "GET", f"{operation.path}?{operation.query}")[2]["status"] == "InProgress"
    assert ask(azure, "GET", f"{location.path}?{location.query}")[0] == 202
    assert (
        ask(azure, "PUT", path, EMPTY)[1]["Azure-AsyncOperation"].partition("?")[0]
        == headers["Azure-AsyncOperation"].partition("?")[0]
    )
    assert ask(azure, "DELETE", path)[2]["error"]["code"] == "OperationNotAllowed"


def test_a_poller_is_resumed_from_its_continuation_token(azure):
    azure.control.set_times(operation_s=0.3)
    name = azure.name("disk")
    first = azure.compute.disks.begin_create_or_update(azure.group, name, EMPTY)
    token = first.continuation_token()
    disk = azure.compute.disks.begin_create_or_update(azure.group, name, EMPTY, continuation_token=token).result()
    assert disk.properties.provisioning_state == "Succeeded"
    puts = [request for request in azure.control.requests() if request.method == "PUT" and request.path.endswith(name)]
    assert len(puts) == 1
    assert first.result().id == disk.id


def test_throttled_requests_carry_retry_after_and_are_tried_again_by_the_sdk(azure, stubborn):
    patient, single = stubborn
    azure.control.throttle_next(1, retry_after_s=3)
    with pytest.raises(HttpResponseError) as throttled:
        single.disks.get(azure.group, "missing")
    assert (throttled.value.status_code, throttled.value.response.headers["Retry-After"]) == (429, "3")
    azure.control.throttle_next(2, retry_after_s=0.01)
    assert patient.virtual_machine_sizes.list("lab").next().name


def test_the_write_bucket_runs_empty_while_reads_go_on(azure, stubborn):
    _, single = stubborn
    azure.control.set_throttling_scale(0.005)
    single.disks.begin_create_or_update(azure.group, azure.name("disk"), EMPTY, polling=False)
    with pytest.raises(HttpResponseError) as throttled:
        single.disks.begin_create_or_update(azure.group, azure.name("disk"), EMPTY, polling=False)
    assert throttled.value.status_code == 429
    assert single.virtual_machine_sizes.list("lab").next().name


def test_a_dropped_answer_leaves_the_effect_and_a_repeated_put_finds_it(azure, stubborn):
    patient, single = stubborn
    name = azure.name("disk")
    azure.control.drop_responses(1, method="PUT", path_contains=name)
    with pytest.raises((ServiceRequestError, ServiceResponseError)):
        single.disks.begin_create_or_update(azure.group, name, EMPTY)
    first = single.disks.get(azure.group, name).properties.unique_id
    azure.control.drop_responses(1, method="PUT", path_contains=name)
    disk = patient.disks.begin_create_or_update(azure.group, name, EMPTY).result()
    assert disk.properties.unique_id == first


def test_an_unreachable_endpoint_closes_connections_until_its_time_is_over(azure, stubborn):
    _, single = stubborn
    azure.control.make_unreachable(1000)
    with pytest.raises((ServiceRequestError, ServiceResponseError)):
        single.disks.get(azure.group, "missing")
    azure.control.clear_faults()
    with pytest.raises(ResourceNotFoundError):
        single.disks.get(azure.group, "missing")
