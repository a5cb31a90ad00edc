"""Recipes, windows, the trainer and its loop, run folders."""
