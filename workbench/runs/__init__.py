"""Runs: the live handle, pandas views of its records, reports, and tables over several runs."""
