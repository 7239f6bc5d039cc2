"""The one description of the database; migrations must lead to exactly this (a test compares them).

Columns exist for what is searched or compared; the value itself is one `body`: JSON where an operator may want to read
it with any SQLite tool, msgpack where there are many rows. Times are seconds since the epoch.
"""

from __future__ import annotations

from sqlalchemy import Column, Float, ForeignKey, Index, Integer, LargeBinary, MetaData, Table, Text

REVISION = "r0001"
"""The migration that this description corresponds to."""

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    }
)

installation = Table(
    "installation",
    metadata,
    Column("name", Text, primary_key=True),
    Column("value", Text, nullable=False),
)
"""Facts about this data directory, such as which key seals its secrets."""

bundle_state = Table(
    "bundle_state",
    metadata,
    Column("bundle", Text, primary_key=True),
    Column("version", Integer, nullable=False),
    Column("body", Text, nullable=False),
)

release = Table(
    "release",
    metadata,
    Column("id", Text, primary_key=True),
    Column("bundle", Text, nullable=False),
    Column("content", Text, nullable=False),
    Column("created_at", Float, nullable=False),
    Column("body", Text, nullable=False),
)

rollout = Table(
    "rollout",
    metadata,
    Column("position", Integer, primary_key=True),
    Column("id", Text, nullable=False, unique=True),
    Column("bundle", Text, nullable=False),
    Column("release", Text, ForeignKey("release.id"), nullable=False),
    Column("state", Text, nullable=False),
    Column("created_at", Float, nullable=False),
    Column("ended_at", Float),
    Column("version", Integer, nullable=False),
    Column("body", Text, nullable=False),
)
Index(None, rollout.c.bundle, rollout.c.position)
Index(None, rollout.c.release)

assignment = Table(
    "assignment",
    metadata,
    Column("cluster", Text, primary_key=True),
    Column("bundle", Text, primary_key=True),
    Column("seq", Integer, nullable=False),
    Column("digest", Text),
    Column("body", Text, nullable=False),
)

event = Table(
    "event",
    metadata,
    Column("seq", Integer, primary_key=True),
    Column("time", Float, nullable=False),
    Column("type", Text, nullable=False),
    Column("bundle", Text),
    Column("rollout", Text),
    Column("wave", Text),
    Column("cluster", Text),
    Column("actor", Text, nullable=False),
    Column("data", Text, nullable=False),
)
Index(None, event.c.rollout, event.c.seq)

manifest = Table(
    "manifest",
    metadata,
    Column("ref", LargeBinary, primary_key=True),
    Column("form", Integer, nullable=False),
    Column("body", LargeBinary, nullable=False),
)
"""One wanted object, shared by every set that contains it; `ref` is a keyed digest, so that it betrays no Secret."""

manifest_set = Table(
    "manifest_set",
    metadata,
    Column("digest", Text, primary_key=True),
    Column("stored_at", Float, nullable=False),
    Column("refs", LargeBinary, nullable=False),
)

document = Table(
    "document",
    metadata,
    Column("name", Text, primary_key=True),
    Column("revision", Text, nullable=False),
    Column("body", LargeBinary, nullable=False),
)

inventory = Table(
    "inventory",
    metadata,
    Column("cluster", Text, primary_key=True),
    Column("bundle", Text, primary_key=True),
    Column("body", LargeBinary, nullable=False),
)

baseline = Table(
    "baseline",
    metadata,
    Column("cluster", Text, primary_key=True),
    Column("object", Text, primary_key=True),
    Column("form", Integer, nullable=False),
    Column("body", LargeBinary, nullable=False),
)

drift = Table(
    "drift",
    metadata,
    Column("position", Integer, primary_key=True),
    Column("id", Text, nullable=False, unique=True),
    Column("cluster", Text, nullable=False),
    Column("bundle", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("open", Integer, nullable=False),
    Column("body", Text, nullable=False),
)
Index(None, drift.c.open, drift.c.position)
Index(None, drift.c.cluster, drift.c.position)
