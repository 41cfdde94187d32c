"""What goes over the wire, byte for byte where other clients than pyVmomi depend on it."""

import http.client
from collections.abc import Iterator

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from lab.vcenter.soap import BadRequestError, parse_request
from tests.unit.lab_vcenter_soap.running import Lab

HEAD = '<?xml version="1.0" encoding="UTF-8"?>\n<Envelope xmlns="http://schemas.xmlsoap.org/soap/envelope/"><Body>'
TAIL = "</Body></Envelope>"

WALK = (
    HEAD
    + '<RetrieveProperties xmlns="urn:vim25"><_this type="PropertyCollector">propertyCollector</_this><specSet>'
    + "<propSet><type>ManagedEntity</type><pathSet>name</pathSet><pathSet>parent</pathSet></propSet>"
    + '<objectSet><obj type="Datacenter">datacenter-2</obj><skip>false</skip>'
    + '<selectSet xmlns:XMLSchema-instance="http://www.w3.org/2001/XMLSchema-instance" XMLSchema-instance:type="TraversalSpec">'
    + "<name>up</name><type>ManagedEntity</type><path>parent</path><skip>false</skip>"
    + '<selectSet XMLSchema-instance:type="SelectionSpec"><name>up</name></selectSet></selectSet></objectSet></specSet>'
    + f"</RetrieveProperties>{TAIL}"
)
"""As govc walks from an entity up to the root."""


def _post(lab: Lab, body: str, *, chunked: bool) -> tuple[int, str]:
    connection = http.client.HTTPSConnection("127.0.0.1", lab.port, context=lab.tls())

    def pieces() -> Iterator[bytes]:
        for start in range(0, len(body), 100):
            yield body[start : start + 100].encode()

    connection.request(
        "POST", "/sdk", pieces() if chunked else body.encode(), {"Cookie": lab.si._stub.cookie}, encode_chunked=chunked
    )
    response = connection.getresponse()
    answer = response.status, response.read().decode()
    connection.close()
    return answer


@pytest.mark.parametrize("chunked", [False, True])
def test_a_walk_as_govc_sends_it_is_understood_and_names_references_as_the_wsdl_does(lab: Lab, chunked: bool) -> None:
    status, text = _post(lab, WALK, chunked=chunked)
    assert status == 200
    assert '<val xsi:type="ManagedObjectReference" type="Folder">group-d1</val>' in text
    assert '<name>name</name><val xsi:type="xsd:string">Datacenters</val>' in text
    assert "versionId" not in text


def test_arguments_come_typed_and_complete() -> None:
    body = f'{HEAD}<CreateSnapshot_Task xmlns="urn:vim25"><_this type="VirtualMachine">vm-1</_this><name>a&amp;b</name>'
    body += f"<memory>false</memory><quiesce>1</quiesce></CreateSnapshot_Task>{TAIL}"
    request = parse_request(body.encode())
    assert (request.method, request.this._moId) == ("CreateSnapshot_Task", "vm-1")
    assert request.arguments == {"name": "a&b", "description": None, "memory": False, "quiesce": True}


def test_a_header_is_skipped_and_a_password_is_in_no_repr() -> None:
    body = HEAD.replace("<Body>", "<Header><operationID>x</operationID></Header><Body>")
    body += '<Login xmlns="urn:vim25"><_this type="SessionManager">SessionManager</_this><userName>u</userName>'
    body += f"<password>hidden</password></Login>{TAIL}"
    request = parse_request(body.encode())
    assert request.arguments["password"] == "hidden"
    assert "hidden" not in repr(request)


@pytest.mark.parametrize(
    "content",
    [
        "",
        '<NoSuchMethod xmlns="urn:vim25"><_this type="Folder">x</_this></NoSuchMethod>',
        '<Login xmlns="urn:vim25"><userName>u</userName></Login>',
        '<Login xmlns="urn:vim25"><_this type="SessionManager">x</_this><userName>u</userName></Login>',
        '<Login xmlns="urn:vim25"><_this type="SessionManager">x</_this><unknown>u</unknown></Login>',
        '<Login xmlns="urn:vim25"><_this type="NoSuchType">x</_this><userName>u</userName><password>p</password></Login>',
        '<CurrentTime xmlns="urn:vim25"><_this>x</_this></CurrentTime>',
    ],
)
def test_what_vim25_does_not_have_is_refused(content: str) -> None:
    with pytest.raises(BadRequestError):
        parse_request((HEAD + content + TAIL).encode())


@given(st.integers(0, len(WALK)), st.integers(0, len(WALK)), st.binary(max_size=20))
@example(30, 30, b"a")  # an encoding that nobody knows
def test_a_damaged_request_is_refused_or_understood_but_never_breaks_the_parser(start: int, end: int, put: bytes) -> None:
    body = WALK.encode()[: min(start, end)] + put + WALK.encode()[max(start, end) :]
    try:
        assert parse_request(body).method
    except BadRequestError:
        return
