"""The keys of personal fields, in a store of their own, outside of the log and of its backups."""
