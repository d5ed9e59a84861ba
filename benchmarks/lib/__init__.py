"""What benchmarks share: trees, arms, counters, and their reports."""
