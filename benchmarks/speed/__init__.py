"""What steps, range tests, trainings and sweeps cost, beside torch and other packages."""
