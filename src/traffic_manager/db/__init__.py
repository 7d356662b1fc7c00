"""The one storage layer: all SQL is here, and drivers' exceptions end here."""
