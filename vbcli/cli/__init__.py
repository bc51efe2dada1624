"""The command line: each command checks its options, calls the library and prints."""
