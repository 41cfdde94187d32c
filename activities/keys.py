"""Data keys: one for each replication, made and unwrapped where it is used, stored only wrapped."""

import os

from activities.adapters import Stores
from deltaferry.model.errors import DeltaferryError, ErrorKind
from deltaferry.model.naming import WRAPPED_KEY, gateway_container
from deltaferry.model.replication import ReplicationRef

_KEY_BYTES = 32


def create_data_key(stores: Stores, ref: ReplicationRef) -> None:
    """Store a wrapped new data key, unless the replication has one."""
    stores.gateway.put_new(f"{gateway_container(ref)}/{WRAPPED_KEY}", stores.keys.wrap(os.urandom(_KEY_BYTES)))


def data_key(stores: Stores, ref: ReplicationRef) -> bytes:
    """Return a replication's data key. Raises KEY_UNAVAILABLE."""
    wrapped = stores.gateway.get_if_exists(f"{gateway_container(ref)}/{WRAPPED_KEY}")
    if wrapped is None:
        raise DeltaferryError(ErrorKind.KEY_UNAVAILABLE, f"The wrapped data key of replication {ref.replication_id} is gone.")
    return stores.keys.unwrap(wrapped)
