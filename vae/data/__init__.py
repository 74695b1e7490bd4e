"""Data sets, each a function or class of its own file."""
