"""Compares 1cycle with constant and piecewise-constant rates."""
