"""Find faces, crop them as FFHQ does, paste an edited crop back."""
