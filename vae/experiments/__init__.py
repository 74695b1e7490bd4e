"""One file is one experiment: its settings, what it runs, what it reports."""
