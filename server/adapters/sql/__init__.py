"""The registry in a database: SQLite in a file of this machine, or PostgreSQL."""
