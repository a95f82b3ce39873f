"""Compares ways to train a model without tuning anything, by the validation loss at the end."""
