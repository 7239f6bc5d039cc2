"""Entry point of Alembic: runs the migrations on the connection, and in the transaction, that `migrate` hands over."""

from __future__ import annotations

from alembic import context

from fleet.store import tables

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=tables.metadata,
    # SQLite alters tables by copying them.
    render_as_batch=True,
)
context.run_migrations()
