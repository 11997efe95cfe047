"""Reference runs that refactoring must leave bitwise equal."""
