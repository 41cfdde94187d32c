"""pyVmomi's modules as the lab uses them.

pyVmomi makes its types at run time and declares only part of them to type checkers (a fault's `msg`, constructors and
the whole serializer are missing), so they are `Any` here, in one place, instead of an exemption at every use.
"""

from typing import Any

from pyVmomi import SoapAdapter, VmomiSupport
from pyVmomi import vim as _vim
from pyVmomi import vmodl as _vmodl

vim: Any = _vim
"""The types of `urn:vim25`."""

vmodl: Any = _vmodl
"""The base types: faults, property collector, data objects."""

vmomi: Any = VmomiSupport
"""Type registry and the base classes of all types."""

adapter: Any = SoapAdapter
"""Serializer and deserializer."""
