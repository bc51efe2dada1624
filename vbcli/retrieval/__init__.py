"""Search in videos: an index of vectors, and re-ranking of what it finds."""
