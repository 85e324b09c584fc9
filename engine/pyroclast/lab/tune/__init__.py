"""Finds the fastest variants and tiles on this machine by measurement, and keeps them."""
