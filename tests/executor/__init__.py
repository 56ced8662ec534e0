"""The executor in process, against real logs; and how a message becomes a command."""
