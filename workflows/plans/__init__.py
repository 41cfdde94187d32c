"""The parts of `RecoveryPlan`: how a run is asked, what it asks of others, and what people see of it."""
