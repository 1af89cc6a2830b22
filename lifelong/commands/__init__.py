"""The commands: each reads its words, calls the library and prints."""
