"""Hostile input: every RPC and every field of what both services serve, from the descriptors."""
