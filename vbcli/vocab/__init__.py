"""The visual vocabulary: a projection and a tree of centroids, which turn features into visual tokens."""
