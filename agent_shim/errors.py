"""The errors of this project, as one tree.

::

    AgentTelemetryError
    ├── SettingsError        a flag, variable or file has a value that cannot be used
    ├── EventError           a stored event cannot be read
    ├── JournalError
    │   ├── JournalUnreachable   the journal cannot be opened or asked
    │   └── JournalTooNew        the journal was written by a newer version of this program
    ├── NotFound             what was asked for is not in the journal
    ├── PriceError           a price override cannot be used
    └── DeliveryError        a destination did not accept events

None of them ever reaches an agent: inside it, failures become ``capture.failed`` events.
Each carries a ``hint``: the way out, shown to the user below the message.
"""

from __future__ import annotations


class AgentTelemetryError(Exception):
    """Superclass of all errors of this project. Never raised directly."""

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.hint = hint


class SettingsError(AgentTelemetryError):
    """A flag, an environment variable or the configuration file has a value that cannot be used."""


class EventError(AgentTelemetryError):
    """A stored event is not in a form that this version can read."""


class JournalError(AgentTelemetryError):
    """Superclass of what can be wrong with the journal. Never raised directly."""


class JournalUnreachable(JournalError):
    """The journal cannot be opened, written or asked right now."""


class JournalTooNew(JournalError):
    """The journal was migrated by a newer version of this program, and is left untouched."""


class NotFound(AgentTelemetryError):
    """No run, commit or other record of that name is in the journal, or more than one is."""


class PriceError(AgentTelemetryError):
    """A price override in the configuration cannot be used."""


class DeliveryError(AgentTelemetryError):
    """A destination did not accept events; they stay in the spool and are sent again."""
