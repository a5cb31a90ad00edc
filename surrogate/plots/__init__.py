"""Figures: trials, traces, ROC curves, learning curves."""
