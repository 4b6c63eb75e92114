"""What the commands do: parties put together, a line run, a report made."""
