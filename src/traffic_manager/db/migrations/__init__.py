"""How the tables came to be, as Alembic revisions; `traffic-manager migrate` runs them.

Each leaves tables that the program before it can go on with (ADR 16): it adds, and what it adds may be left out by
who does not know it. What nobody needs any more goes one version later.
"""
