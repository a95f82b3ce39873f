"""Holds what tasks are made of: their definition, data, models and losses."""
