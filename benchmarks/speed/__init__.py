"""Compares steps, range tests, trainings and sweeps with torch and other packages."""
