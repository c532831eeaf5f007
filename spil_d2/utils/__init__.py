"""Small helpers without a place in the model."""
