"""Compares the short recipe with a full grid over learning rate and weight decay."""
