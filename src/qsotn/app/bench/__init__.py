"""Benchmarks: commands that measure whole things as they are deployed, and print what they measured and what not."""
