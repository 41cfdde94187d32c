"""Worker processes: settings, wiring, queues, logs, metrics."""
