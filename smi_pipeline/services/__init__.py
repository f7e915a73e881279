"""Use cases of the shop."""
