"""What is said and written about videos: subtitles, caption files and annotations, aligned by time."""
