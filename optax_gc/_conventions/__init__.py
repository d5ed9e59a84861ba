"""Weight axes from names and shapes."""
