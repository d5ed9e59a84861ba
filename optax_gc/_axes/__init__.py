"""What the axes of one array are."""
