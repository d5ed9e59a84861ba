"""Weight axes read from a program."""
