"""Adapters to fastai."""
