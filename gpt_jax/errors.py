"""Which errors are the user's to mend, and with which code does the program leave?"""

EXIT_BAD_INPUT = 2
EXIT_FAILED = 3
EXIT_RESUMABLE = 75  # EX_TEMPFAIL of sysexits.h: run the same command again


class UserError(ValueError):
    """Bad input. The message is one line: the field or file, and what to do. No traceback is shown."""


class Diverged(RuntimeError):
    """Training met too many non-finite steps in a row and has no good checkpoint left to return to."""


class TrialsFailed(RuntimeError):
    """Some trials of a sweep failed; the others are done and recorded."""


class Preempted(RuntimeError):
    """A signal asked the run to stop; its state is saved and the same command goes on from there."""
