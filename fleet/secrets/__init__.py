"""Where secrets come from: read at the time of use, never kept, never logged."""
