"""The log: the port, and one module per store behind it."""
