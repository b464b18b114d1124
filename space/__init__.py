"""The browser demo: layout in ``ui``, what happens in ``handlers``, what needs the accelerator in ``jobs``."""
