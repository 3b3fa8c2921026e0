"""Answers read from candidates, ballots counted, and when the count is settled: pure values and functions."""
