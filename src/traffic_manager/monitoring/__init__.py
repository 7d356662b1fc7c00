"""What operators see: logs, metrics, health, and the middleware that gives every request its id."""
