"""What happens, in order, and why: durable and deterministic."""
