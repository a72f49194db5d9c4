"""Networks that read what a picture of the toy world shows, trained on the renderer alone."""
