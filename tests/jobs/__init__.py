"""Scripts that tests run as separate processes."""
