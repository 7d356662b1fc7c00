"""How the tables came to be, as Alembic revisions; `traffic-manager migrate` runs them."""
