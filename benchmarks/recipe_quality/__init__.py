"""What the settings that the short recipe finds are worth, and what they cost: against a full grid."""
