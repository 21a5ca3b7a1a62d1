"""What happens before a run: the command line is read, checked and turned into a configuration, without torch."""
