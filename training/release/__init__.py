"""A trained run as a bundle for others: made, built out for other programs, checked."""
