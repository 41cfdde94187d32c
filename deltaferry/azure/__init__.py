"""The Azure side: blobs, compute, network, key vault."""
