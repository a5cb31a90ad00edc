"""Commands: parse, call the core, print."""
