"""Run by Alembic inside the transaction that `telemetry.database.migrate` opened."""

from alembic import context
from sqlmodel import SQLModel

from telemetry import tables  # noqa: F401  (its import fills the metadata)

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=SQLModel.metadata,
    render_as_batch=True,
    include_object=lambda item, *_: not item.info.get("is_view"),
)
context.run_migrations()
