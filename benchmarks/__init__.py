"""Speed and memory beside a public peer, in the same run: `python -m benchmarks`."""
