"""Scores of what the applications wrote, beside baselines: captions, answers, classes, summaries."""
