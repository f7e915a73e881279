"""The image checks: sources, results, hostile files."""
