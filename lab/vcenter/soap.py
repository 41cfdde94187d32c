"""SOAP requests in, SOAP replies and faults out, on pyVmomi's own types.

pyVmomi ships a serializer and a response parser; the request parser here is the piece it lacks. It runs pyVmomi's
`SoapDeserializer` on every parameter, with the type that the method's declaration gives.
"""

from collections.abc import Mapping
from copy import copy
from dataclasses import dataclass, field
from io import StringIO
from typing import Any
from xml.parsers.expat import ExpatError, ParserCreate
from xml.sax.saxutils import escape

from pyVmomi.SoapAdapter import ExpatDeserializerNSHandlers, SoapSerializer

from lab.vcenter.vocabulary import adapter, vmomi

API_VERSION = "8.0.1.0"
"""What the lab claims to speak: `urn:vim25`, release 8.0.1.0. Later properties are left out of every reply."""

_VERSION = "vim.version.v8_0_1_0"
_NAMESPACE = "urn:vim25"
_NAMESPACES = {
    adapter.XMLNS_SOAPENV: "soapenv",
    vmomi.XMLNS_XSD: "xsd",
    vmomi.XMLNS_XSI: "xsi",
    _NAMESPACE: "",
}
_ENVELOPE_START = (
    '<?xml version="1.0" encoding="UTF-8"?>\n'
    f'<soapenv:Envelope xmlns:soapenv="{adapter.XMLNS_SOAPENV}" xmlns:xsd="{vmomi.XMLNS_XSD}" '
    f'xmlns:xsi="{vmomi.XMLNS_XSI}"><soapenv:Body>'
)
_ENVELOPE_END = "</soapenv:Body></soapenv:Envelope>"


@dataclass(frozen=True, slots=True)
class SoapRequest:
    """One call: the WSDL name of the method, the object it is made on, and its arguments by declared name."""

    method: str
    this: Any
    arguments: Mapping[str, Any] = field(repr=False)
    """Never in a repr: a Login's password is among them."""
    info: Any
    """pyVmomi's declaration of the method (params, result, flags, privilege); None for Fetch, which WSDL hides."""


class BadRequestError(Exception):
    """The bytes are no SOAP request, or call a method or a parameter that vim25 does not have."""


class _RequestParser(ExpatDeserializerNSHandlers):
    """Expat handlers: depth 1 is the envelope, 2 header or body, 3 the method, 4 a parameter."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.parser = ParserCreate(namespace_separator=adapter.NS_SEP)
        self.parser.buffer_text = True
        self.method = ""
        self.info: Any = None
        self.parts: list[tuple[str, Any, bool]] = []
        self._depth = 0
        self._in_header = False
        adapter.SetHandlers(self.parser, adapter.GetHandlers(self))

    def StartElementHandler(self, tag: str, attr: dict[str, str]) -> None:
        """Expat's callback for an opening tag."""
        name = tag.rpartition(adapter.NS_SEP)[2]
        self._depth += 1
        if self._depth == 2:
            self._in_header = name == "Header"
        elif self._depth == 3 and not self._in_header:
            self.method = name
            self.info = None if name == "Fetch" else _method_info(name)
        elif self._depth == 4 and not self._in_header:
            self._start_parameter(name, tag, attr)

    def _start_parameter(self, name: str, tag: str, attr: dict[str, str]) -> None:
        declared = self._declared_type(name)
        is_array = issubclass(declared, list)
        deserializer = adapter.SoapDeserializer(None)
        self.parts.append((name, deserializer, is_array))
        # It replaces our handlers by its own, so it is handed this very element; at the end tag it restores ours
        # without telling us: hence the depth is taken back here. Arrays arrive as repeated elements.
        deserializer.Deserialize(self.parser, declared.Item if is_array else declared, False, self.nsMap)
        deserializer.StartElementHandler(tag, attr)
        self._depth -= 1

    def _declared_type(self, name: str) -> Any:
        if name == "_this":
            return vmomi.ManagedObject
        if self.info is None:
            return str
        for parameter in self.info.params:
            if parameter.name == name:
                return parameter.type
        raise BadRequestError(f"{self.method} has no parameter {name}")

    def EndElementHandler(self, tag: str) -> None:
        """Expat's callback for a closing tag."""
        self._depth -= 1

    def CharacterDataHandler(self, data: str) -> None:
        """Expat's callback for text outside parameters: only white space is legal there, and it means nothing."""


def method_info(wsdl_name: str) -> Any:
    """Return pyVmomi's declaration of a vim25 method. Raises KeyError."""
    return vmomi.GetWsdlMethod(_NAMESPACE, wsdl_name).info


def managed_method(wsdl_name: str) -> Any:
    """Return pyVmomi's method object, as a TaskInfo's `name` holds it. Raises KeyError."""
    return vmomi.GetWsdlMethod(_NAMESPACE, wsdl_name)


def _method_info(name: str) -> Any:
    try:
        return method_info(name)
    except KeyError as error:
        raise BadRequestError(f"vim25 has no method {name}") from error


def parse_request(body: bytes) -> SoapRequest:
    """Parse one SOAP request. Raises BadRequestError."""
    parser = _RequestParser()
    try:
        parser.parser.Parse(body, True)
    except (ExpatError, LookupError, TypeError, AttributeError, ValueError) as error:  # LookupError: of an unknown encoding, too
        raise BadRequestError(f"the request cannot be read: {type(error).__name__}") from error
    this: Any = None
    arguments: dict[str, Any] = {}
    for name, deserializer, is_array in parser.parts:
        value = deserializer.GetResult()
        if name == "_this":
            this = value
        elif is_array:
            arguments.setdefault(name, []).append(value)
        else:
            arguments[name] = value
    if not parser.method or this is None:
        raise BadRequestError("the request names no method or no object")
    if parser.info is not None:
        _complete_arguments(parser.method, parser.info, arguments)
    return SoapRequest(method=parser.method, this=this, arguments=arguments, info=parser.info)


def _complete_arguments(method: str, info: Any, arguments: dict[str, Any]) -> None:
    """Give omitted optional parameters their empty value; an omitted required one is the caller's fault."""
    for parameter in info.params:
        if parameter.name in arguments:
            continue
        if issubclass(parameter.type, list):
            arguments[parameter.name] = []
        elif parameter.flags & vmomi.F_OPTIONAL:
            arguments[parameter.name] = None
        else:
            raise BadRequestError(f"{method} needs the parameter {parameter.name}")


class _Serializer(SoapSerializer):
    """pyVmomi's serializer, made to write what a vCenter writes."""

    def __init__(self, writer: StringIO) -> None:
        super().__init__(writer, _VERSION, dict(_NAMESPACES))  # type: ignore[no-untyped-call]
        self.outermostAttrs = ""  # it would add a versionId attribute that no vCenter sends

    def _QName(self, typ: Any, defNS: str) -> tuple[str, str]:
        """Name a type; WSDL calls a reference in an Any ManagedObjectReference, and govc knows no other name."""
        attribute, name = super()._QName(typ, defNS)  # type: ignore[no-untyped-call]
        return attribute, f"{name}Reference" if typ is vmomi.ManagedObject else name


def _serialize(value: Any, info: Any) -> str:
    writer = StringIO()
    serializer: Any = _Serializer(writer)
    serializer.Serialize(value, info)
    return writer.getvalue()


def _object(name: str, kind: Any, flags: int = 0) -> Any:
    return vmomi.Object(name=name, type=kind, version=_VERSION, flags=flags)


def render_result(method: str, result_type: Any, value: Any) -> bytes:
    """Render a method's reply; `result_type` is the declared type, and None a reply without a value."""
    content = ""
    if value is not None and result_type is not type(None):
        content = _serialize(value, _object("returnval", result_type, vmomi.F_OPTIONAL))
    text = f'{_ENVELOPE_START}<{method}Response xmlns="{_NAMESPACE}">{content}</{method}Response>{_ENVELOPE_END}'
    return text.encode()


def render_fault(fault: Any) -> bytes:
    """Render a fault, to be sent with HTTP status 500."""
    writer = StringIO()
    serializer: Any = _Serializer(writer)
    wsdl_name = type(fault)._wsdlName
    bare = copy(fault)
    bare.msg = None  # the message travels as the fault string
    serializer.SerializeFaultDetail(bare, _object(f"{wsdl_name}Fault", object))
    message = escape(fault.msg or wsdl_name)
    # The detail's element and its xsi:type are both in vim25's namespace, which the serializer takes as the default one.
    detail = writer.getvalue().replace(f"<{wsdl_name}Fault", f'<{wsdl_name}Fault xmlns="{_NAMESPACE}"', 1)
    text = (
        f"{_ENVELOPE_START}<soapenv:Fault><faultcode>ServerFaultCode</faultcode><faultstring>{message}</faultstring>"
        f"<detail>{detail}</detail></soapenv:Fault>{_ENVELOPE_END}"
    )
    return text.encode()


def wire_text(value: Any, kind: Any) -> str:
    """Return a value's serialised form: two values are equal for an update exactly if these are."""
    return _serialize(value, _object("val", kind, vmomi.F_OPTIONAL))
