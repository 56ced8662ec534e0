"""Follows the log, keeps a copy of it and projections built from it, and answers from them."""
