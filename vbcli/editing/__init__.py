"""Editing by instruction: a small language, grounded in what videos show, to a list of cuts."""
