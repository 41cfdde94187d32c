"""What passes through histories: inputs, questions, answers, carried state. Plain data, and the rules by which it is read; no decisions."""
