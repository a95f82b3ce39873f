"""Adapters to the Trainer of Hugging Face's transformers."""
