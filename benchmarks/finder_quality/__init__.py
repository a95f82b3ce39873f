"""Compares learning-rate finders by the training that follows their suggestions."""
