"""Checks of the kernels without a GPU: compilation, and predicted times."""
