"""The engine room: what replicates and migrates, knowing nothing of Temporal."""
