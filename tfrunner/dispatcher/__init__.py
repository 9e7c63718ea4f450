"""The dispatcher: a pure core, and `__main__`, the poll loop around it."""
