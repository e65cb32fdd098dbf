"""What a checker raises."""


class BrokenLawError(AssertionError):
    """A law that the checked part does not keep; an assertion of the part's own is passed on as it is."""
