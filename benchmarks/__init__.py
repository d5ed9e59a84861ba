"""What is measured: `python -m benchmarks` lists it, and runs it by name."""
