"""Compares the short recipe with other searches, and with a full grid over learning rate and weight decay."""
