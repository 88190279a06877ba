"""The one exception that people see: its message is the whole explanation, in one line."""


class PipelineError(Exception):
    """Something a person can mend: the message names the file, the record, the problem and the remedy."""
