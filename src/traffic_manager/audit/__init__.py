"""Tamper evidence that leaves the database: heads of the log, signed. Knows no database, Kafka or setting."""
