"""Pure decisions: next cycle, allowed transitions, slots, prerequisite rules. No clock, no I/O, no randomness."""
