"""Comparisons with Stripe and the storage that find what was missed."""
