"""Migrations of the state's schema."""
