"""The lab's vCenter: vSphere's SOAP API, datastore access, ESXi hosts' NBD exports, and real change tracking."""
