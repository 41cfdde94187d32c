"""The vSphere side: pyVmomi lives only here."""
