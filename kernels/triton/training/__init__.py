"""Sequences of a whole stack, forward and backward, in one launch each."""
