"""Models of other programs, one module per kind."""
