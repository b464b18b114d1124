"""Layout and wiring of the tabs, one file each."""
