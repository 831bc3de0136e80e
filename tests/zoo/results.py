"""What tests of evidence read out of results."""


def intervals_of(value):
    """Every mean with its interval, wherever it stands."""
    if isinstance(value, dict):
        if {"mean", "low", "high"} <= value.keys():
            yield value
        value = list(value.values())
    if isinstance(value, list):
        for one in value:
            yield from intervals_of(one)
