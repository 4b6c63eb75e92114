"""The key network behind AK: link pools and relay."""
