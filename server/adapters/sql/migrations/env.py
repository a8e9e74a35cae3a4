"""Run the migrations in the caller's transaction."""

from alembic import context

context.configure(
    connection=context.config.attributes["connection"], target_metadata=None, transactional_ddl=True
)
context.run_migrations()
