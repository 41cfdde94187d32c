"""What touches the world, one step each: idempotent, heartbeating, with errors of the taxonomy."""
