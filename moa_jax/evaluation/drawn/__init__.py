"""What can be changed about drawing alone: the same trained weights, drawn in other ways."""
