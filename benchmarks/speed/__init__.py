"""Measures steps, range tests, trainings and sweeps beside torch and other packages."""
