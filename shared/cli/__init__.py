"""The command line, `tidemark`: a client of both services, for people and for scripts."""
