"""The command line: a client of Temporal."""
