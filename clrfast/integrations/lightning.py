"""Adapters to Lightning."""
