"""Hostile requests through the real front, judged by what arrives behind it."""
