"""SQL of the reports: statements that build the tables, percentiles of processing times, checks and the store."""
