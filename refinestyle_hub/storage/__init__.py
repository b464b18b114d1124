"""Files that last: JSON of dataclasses, tensors, atomic writing, fingerprints. No network."""
