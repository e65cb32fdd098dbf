"""Planted faults that checkers must find, and unusual implementations that they must pass."""
