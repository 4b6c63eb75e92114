"""The digital twin of the quantum layer."""
