"""Several workers over one store and one Redis, against a plain model of all that has happened."""
