"""Adapters to Accelerate."""
