"""Who may do what: API keys, principals, grants, and the one decision on them. Knows no HTTP and no database."""
