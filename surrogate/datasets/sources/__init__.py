"""Files that a conversion can read, one module per format."""
