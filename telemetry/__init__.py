"""Everything after the spool: delivery, journal, questions. ``docs/architecture.md`` has the picture."""
