"""The same examples on every run, however slow the machine."""

from hypothesis import settings

settings.register_profile("few", deadline=None, derandomize=True, max_examples=25)
settings.load_profile("few")
