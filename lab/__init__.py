"""The embedded world for demo, tests and training; never part of production."""
