"""A real PostgreSQL for the tests, and what it is put through."""
