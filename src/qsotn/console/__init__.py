"""What people see: ladders, progress, reports."""
