"""Stores: `sqlite` (one file a party)."""
