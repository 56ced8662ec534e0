"""Takes commands, decides them against aggregates, and appends the events to the log."""
