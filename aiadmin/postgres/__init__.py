"""Django's PostgreSQL backend on the embedded cluster (ENGINE of the default)."""
