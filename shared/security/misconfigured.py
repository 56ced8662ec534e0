"""Why a service does not start."""


class Misconfigured(Exception):
    """The options are not safe, do not go together, or name files that are not what they say."""
