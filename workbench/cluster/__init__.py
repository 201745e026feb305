"""The notebook's side: clusters that are started, attached and given jobs."""
