"""What the policies do for a training: 1cycle against constant and piecewise-constant rates."""
