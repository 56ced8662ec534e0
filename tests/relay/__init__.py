"""The relay as a real process, between real services, a real broker and real workers."""
