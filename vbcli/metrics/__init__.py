"""Scores, and what to read them beside: captions, what they mention, baselines."""
