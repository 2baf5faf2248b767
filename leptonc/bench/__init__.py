"""Benchmarks: suites of networks, peers, the interleaved protocol, tables and charts."""
