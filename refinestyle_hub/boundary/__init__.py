"""What a user hands over, before anything is done with it: paths, numbers, options, and files that may be others."""
