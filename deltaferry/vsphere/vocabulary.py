"""pyVmomi as this package uses it: the only module of the source tree's adapters that imports it.

pyVmomi makes its types at run time and declares only part of them to type checkers (methods, constructors and a
fault's `msg` are missing, and every property is optional), so they are `Any` here, in one place.
"""

from typing import Any

from pyVmomi import SoapAdapter, VmomiSupport
from pyVmomi import vim as _vim
from pyVmomi import vmodl as _vmodl

vim: Any = _vim
"""The types of `urn:vim25`."""

vmodl: Any = _vmodl
"""The base types: faults, property collector, data objects."""

SoapStub: Any = SoapAdapter.SoapStubAdapter
"""One HTTP connection pool to one endpoint, with one session cookie."""

StubBase: Any = SoapAdapter.StubAdapterBase
"""What a managed object sends its calls through."""

API_VERSION: str = VmomiSupport.versionMap["vim25/6.7"]
"""The release that every call announces: the oldest that has all we use, understood by vCenter 6.7 and later."""

ManagedObject = Any
"""A reference to an object in vCenter. Reading its attributes would be one request each: properties.py reads them."""
