"""Students in the forms of other libraries, each held against the original before it is kept."""
