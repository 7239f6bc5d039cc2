"""The first schema: decisions, events, manifests, and what is known of clusters."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "r0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "installation",
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("value", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_installation"),
    )
    op.create_table(
        "document",
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("revision", sa.Text, nullable=False),
        sa.Column("body", sa.LargeBinary, nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_document"),
    )
    _decisions()
    _event()
    _manifests()
    _clusters()
    _drift()


def _decisions() -> None:
    op.create_table(
        "bundle_state",
        sa.Column("bundle", sa.Text, nullable=False),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("body", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("bundle", name="pk_bundle_state"),
    )
    op.create_table(
        "release",
        sa.Column("id", sa.Text, nullable=False),
        sa.Column("bundle", sa.Text, nullable=False),
        sa.Column("content", sa.Text, nullable=False),
        sa.Column("created_at", sa.Float, nullable=False),
        sa.Column("body", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_release"),
    )
    op.create_table(
        "rollout",
        sa.Column("position", sa.Integer, nullable=False),
        sa.Column("id", sa.Text, nullable=False),
        sa.Column("bundle", sa.Text, nullable=False),
        sa.Column("release", sa.Text, nullable=False),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("created_at", sa.Float, nullable=False),
        sa.Column("ended_at", sa.Float),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("body", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("position", name="pk_rollout"),
        sa.UniqueConstraint("id", name="uq_rollout_id"),
        sa.ForeignKeyConstraint(["release"], ["release.id"], name="fk_rollout_release"),
    )
    op.create_index("ix_rollout_bundle_position", "rollout", ["bundle", "position"])
    op.create_index("ix_rollout_release", "rollout", ["release"])
    op.create_table(
        "assignment",
        sa.Column("cluster", sa.Text, nullable=False),
        sa.Column("bundle", sa.Text, nullable=False),
        sa.Column("seq", sa.Integer, nullable=False),
        sa.Column("digest", sa.Text),
        sa.Column("body", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("cluster", "bundle", name="pk_assignment"),
    )


def _event() -> None:
    op.create_table(
        "event",
        sa.Column("seq", sa.Integer, nullable=False),
        sa.Column("time", sa.Float, nullable=False),
        sa.Column("type", sa.Text, nullable=False),
        sa.Column("bundle", sa.Text),
        sa.Column("rollout", sa.Text),
        sa.Column("wave", sa.Text),
        sa.Column("cluster", sa.Text),
        sa.Column("actor", sa.Text, nullable=False),
        sa.Column("data", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("seq", name="pk_event"),
    )
    op.create_index("ix_event_rollout_seq", "event", ["rollout", "seq"])


def _manifests() -> None:
    op.create_table(
        "manifest",
        sa.Column("ref", sa.LargeBinary, nullable=False),
        sa.Column("form", sa.Integer, nullable=False),
        sa.Column("body", sa.LargeBinary, nullable=False),
        sa.PrimaryKeyConstraint("ref", name="pk_manifest"),
    )
    op.create_table(
        "manifest_set",
        sa.Column("digest", sa.Text, nullable=False),
        sa.Column("stored_at", sa.Float, nullable=False),
        sa.Column("refs", sa.LargeBinary, nullable=False),
        sa.PrimaryKeyConstraint("digest", name="pk_manifest_set"),
    )


def _clusters() -> None:
    op.create_table(
        "inventory",
        sa.Column("cluster", sa.Text, nullable=False),
        sa.Column("bundle", sa.Text, nullable=False),
        sa.Column("body", sa.LargeBinary, nullable=False),
        sa.PrimaryKeyConstraint("cluster", "bundle", name="pk_inventory"),
    )
    op.create_table(
        "baseline",
        sa.Column("cluster", sa.Text, nullable=False),
        sa.Column("object", sa.Text, nullable=False),
        sa.Column("form", sa.Integer, nullable=False),
        sa.Column("body", sa.LargeBinary, nullable=False),
        sa.PrimaryKeyConstraint("cluster", "object", name="pk_baseline"),
    )


def _drift() -> None:
    op.create_table(
        "drift",
        sa.Column("position", sa.Integer, nullable=False),
        sa.Column("id", sa.Text, nullable=False),
        sa.Column("cluster", sa.Text, nullable=False),
        sa.Column("bundle", sa.Text, nullable=False),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("open", sa.Integer, nullable=False),
        sa.Column("body", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("position", name="pk_drift"),
        sa.UniqueConstraint("id", name="uq_drift_id"),
    )
    op.create_index("ix_drift_open_position", "drift", ["open", "position"])
    op.create_index("ix_drift_cluster_position", "drift", ["cluster", "position"])


def downgrade() -> None:
    raise NotImplementedError("downgrades are refused: restore the copy that the upgrade left beside the database")
