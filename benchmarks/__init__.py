"""Ratios measured side by side in one run; figures in RESULTS.md."""
