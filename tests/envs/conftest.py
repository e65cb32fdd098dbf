"""The same examples on every run, however slow the machine."""

from hypothesis import settings

settings.register_profile("fixed", deadline=None, derandomize=True, max_examples=40)
settings.load_profile("fixed")
