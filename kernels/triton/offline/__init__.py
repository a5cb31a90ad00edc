"""What is known of the kernels without a GPU: what they compile to, and predicted times."""
