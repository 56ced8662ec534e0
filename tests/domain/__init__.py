"""The rules of the domains, their fold and their stored form; pure, no I/O but the golden file."""
