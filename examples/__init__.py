"""Tidemark in use."""
