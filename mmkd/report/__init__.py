"""What a report shows of runs: read from their folders within bounds, drawn, and put into words."""
