"""A primary that dies under load, and what its standbys and the services make of it."""
