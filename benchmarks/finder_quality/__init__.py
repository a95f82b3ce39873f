"""What the training that follows a suggested learning rate is worth: every finder against the best rate there is."""
