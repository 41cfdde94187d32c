"""The data plane: sector sets, plans, segments, NBD, and the processes that move bulk data."""
