"""Events: their types, their filters, and the outbox that they are written to."""
