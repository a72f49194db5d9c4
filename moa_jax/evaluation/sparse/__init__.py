"""What sparse routing changes, against what it leaves out."""
