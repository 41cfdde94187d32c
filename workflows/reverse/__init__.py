"""What `ReprotectVm` and `FailbackVm` share: from Azure back to the site."""
