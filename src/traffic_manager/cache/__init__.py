"""Redis: a cache that workers share, and that may forget, lag or fail at any time."""
