"""Tells the world about changes: the outbox goes to Kafka, in order and at least once."""
