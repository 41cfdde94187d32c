"""The lab's Azure Resource Manager: Compute and Network as the Azure SDKs speak to them, in a process of its own."""
