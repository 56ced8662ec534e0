"""The views: one module per aggregate."""
