"""What can be said about a data set: values only."""

from dataclasses import asdict, dataclass
from enum import StrEnum


class Severity(StrEnum):
    """What follows from a finding."""

    ERROR = "error"
    """It cannot be trained like this."""
    WARNING = "warning"
    """It can, but the result will likely suffer."""
    NOTE = "note"
    """Good to know."""


@dataclass(frozen=True)
class Finding:
    """One thing found in one file."""

    code: str
    """Stable, for scripts: never reused for something else."""
    severity: Severity
    file: str
    """Its path inside the package; empty when it is about the whole."""
    seen: str
    """What was seen, as half a sentence after the file's name."""
    advice: str
    """What to do, as a sentence without its full stop."""

    def as_dict(self) -> dict[str, str]:
        """Return the fields for JSON."""
        return {key: str(value) for key, value in asdict(self).items()}


def error(code: str, file: str, seen: str, advice: str) -> Finding:
    """Return a finding that refuses the data set."""
    return Finding(code, Severity.ERROR, file, seen, advice)


def warning(code: str, file: str, seen: str, advice: str) -> Finding:
    """Return a finding that a person should look at."""
    return Finding(code, Severity.WARNING, file, seen, advice)


def note(code: str, file: str, seen: str, advice: str) -> Finding:
    """Return a finding for completeness."""
    return Finding(code, Severity.NOTE, file, seen, advice)
