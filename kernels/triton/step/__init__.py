"""One bin of many neurons in one launch."""
