"""The lab of the end-to-end tests, for the enumerated faults."""

from tests.e2e.conftest import client, lab, vm, whole_lab

__all__ = ["client", "lab", "vm", "whole_lab"]
