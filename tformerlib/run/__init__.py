"""A chapter as a run: its parameters, and the records that it leaves."""
