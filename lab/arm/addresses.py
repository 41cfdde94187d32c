"""Private addresses of a subnet: the first four and the last are Azure's own."""

from collections.abc import Iterable
from ipaddress import IPv4Address, IPv4Network

from lab.arm.errors import ArmError

_RESERVED_AT_START = 4


def parse_prefix(prefix: object) -> IPv4Network:
    """Return an address prefix. Raises InvalidAddressPrefixFormat."""
    try:
        return IPv4Network(str(prefix))
    except ValueError as error:
        raise ArmError(
            400, "InvalidAddressPrefixFormat", f"Address prefix {prefix} of resource is not formatted correctly."
        ) from error


def allocate(prefix: IPv4Network, used: Iterable[str], subnet: str) -> str:
    """Return the lowest free address. Raises SubnetIsFull."""
    taken = set(used)
    for address in range(int(prefix.network_address) + _RESERVED_AT_START, int(prefix.broadcast_address)):
        if str(IPv4Address(address)) not in taken:
            return str(IPv4Address(address))
    raise ArmError(
        400, "SubnetIsFull", f"Subnet {subnet} with address prefix {prefix} does not have enough capacity for 1 IP addresses."
    )


def check_static(address: object, prefix: IPv4Network, used: Iterable[str], subnet: str) -> str:
    """Return a requested address if it can be had."""
    try:
        wanted = IPv4Address(str(address))
    except ValueError as error:
        raise ArmError(400, "InvalidIPAddressFormat", f"The IP address {address} is not formatted correctly.") from error
    if wanted not in prefix:
        raise ArmError(
            400,
            "PrivateIPAddressNotInSubnet",
            f"Private static IP address {wanted} does not belong to the range of subnet prefix {prefix}.",
        )
    if int(wanted) < int(prefix.network_address) + _RESERVED_AT_START or wanted == prefix.broadcast_address:
        raise ArmError(
            400,
            "PrivateIPAddressInReservedRange",
            f"Private static IP address {wanted} falls within reserved IP range of subnet prefix {prefix}.",
        )
    if str(wanted) in set(used):
        raise ArmError(400, "PrivateIPAddressIsAllocated", f"IP address {wanted} is already allocated in subnet {subnet}.")
    return str(wanted)
