"""The parts of `ReplicateVm`: one file for each thing that a replication does beside and between its cycles."""
