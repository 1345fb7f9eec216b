//! Placeholder until the first real code.
pgrx::pg_module_magic!();
