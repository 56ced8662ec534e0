"""Others that do the same work, and the processes in which they do it."""
