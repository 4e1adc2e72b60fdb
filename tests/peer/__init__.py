"""Tests of what members say to one another."""
