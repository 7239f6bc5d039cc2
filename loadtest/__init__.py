"""Load tests: one command a scenario, figures beside what a bare loop reaches in the same run."""
