"""Where a finished edit is entered, for equal ones to find."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Entry:
    """One line in the register of finished edits.

    Attributes:
        key: of the hash.
        field: of it.
        name: of the job, as the register writes it.
        lives_ms: how long the hash is kept after its last entry, ms.
    """

    key: str
    field: str
    name: str
    lives_ms: int
