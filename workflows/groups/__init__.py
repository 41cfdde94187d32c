"""The parts of `ReplicationGroup`: members that hold still together, and the shared point that comes of it."""
